// llama-server's answer to one request, with attention put into it.
#pragma once

#include "server/front/answers.h"
#include "server/front/event_reader.h"
#include "server/front/llama_program.h"
#include "server/front/request_rows.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace attnscope::server {

enum class LlamaRoute { completion, openai }; // llama-server's own shape, or OpenAI's

struct LlamaExchange {
    LlamaRoute route = LlamaRoute::completion;
    bool tokens_asked = false;  // "return_tokens" by the client itself
    bool timings_asked = false; // "timings_per_token"
    Answers* answers = nullptr; // remembers what was accumulated
    std::string id;             // "request_id" of the client; may be empty
    std::unique_ptr<RequestRows> rows;
    EventReader events;

    // A whole answer. Nothing of it is touched where it is an error.
    std::string whole(const std::string& body);
    // An event of a stream, and events of ours before it where it tells of several tokens.
    std::string event(const ServerEvent& event);

private:
    // How many tokens were generated, as this part of an answer says; -1: it does not.
    int64_t n_told(const OrderedJson& body) const;
    // Members of its end, each once asked for.
    std::string end_members() const;
    // Events for the tokens before the n-th, and members for its own.
    std::string token_events(const OrderedJson& body, int64_t n, bool last, std::string& members);
    std::string prompt_events(const OrderedJson& like);
    // An event that tells nothing but attention.
    std::string bare_event(const OrderedJson& like, const std::string& members) const;
};

} // namespace attnscope::server
