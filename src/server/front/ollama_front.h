// Requests that ask for attention, in front of Ollama: their line is known by the model's file, by the tokens of the prompt that Ollama
// makes of them, and by time.
#pragma once

#include "server/front/front_service.h"
#include "server/front/ollama_program.h"

#include <string>

namespace attnscope::server {

inline constexpr const char* where_ollama_answers =
    "attention of Ollama is answered at /v1/chat/completions, /v1/completions, /api/chat and /api/generate";

OllamaProgram ollama_of(const FrontService& service, const httplib::Request& request);

struct OllamaAsked {
    OllamaRoute route = OllamaRoute::chat;
    OrderedJson body;
    AttentionWants wants; // without attention: only where the line is recorded
    bool record = false;
    std::string id; // "request_id"; may be empty
};
void answer_from_ollama(FrontService& service, const httplib::Request& request, httplib::Response& response,
                        OllamaAsked asked);

} // namespace attnscope::server
