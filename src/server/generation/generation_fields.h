// From the body of a request to what the engine is asked: the fields of KoboldCPP, Halo Weave, llama-server and OpenAI,
// each with the default that its dialect knows.
#pragma once

#include "server/http/request_fields.h"
#include "server/http/service.h"

#include <attnscope/error.h>

#include <set>
#include <string>
#include <vector>

namespace attnscope::server {

struct ReadRequest {
    GenerationRequest generation;
    bool stream = false;                 // of the OpenAI endpoints
    bool return_tokens = false;          // of /completion
    bool usage = false;                  // stream_options.include_usage
    bool logprobs = false;               // probabilities are part of the answer
    int32_t n = 1, best_of = 1;          // so many answers, the best of so many
    bool echo = false;                   // the prompt is part of the answer:
    std::string prompt;                  // its text, where `echo`
    bool halo_weave = false;             // output_attentions or output_hidden_states: tokens are objects
    std::vector<size_t> character_spans; // places in attention->spans that still count characters
    std::set<std::string> known;         // fields that have an effect here, or are refused where they would have one
    std::vector<std::string> ignored;    // fields that were given and have none
};

struct Asked {
    const std::string&
        text; // the same body as it came, for templates and grammars: tools and schemas keep the order of their fields
    GivenUp gone; // whoever asked: what takes long ends
};

// /api/v1/generate, /api/extra/generate/stream and its WebSocket.
Result<ReadRequest> read_kobold(const Json& body, const Asked& asked, const Service& service);
// /v1/completions, and /v1/chat/completions.
Result<ReadRequest> read_completion(const Json& body, const Asked& asked, const Service& service);
// /completion, with llama-server's own defaults.
Result<ReadRequest> read_llama_completion(const Json& body, const Asked& asked, const Service& service);
Result<ReadRequest> read_chat(const Json& body, const Asked& asked, const Service& service);

// `messages` of a chat: roles and contents, as text or as text parts.
Result<void> check_messages(const Json& body);

} // namespace attnscope::server
