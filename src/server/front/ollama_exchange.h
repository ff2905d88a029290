// Ollama's answer to one request, with attention put into it: at its end, because nothing before it says how many tokens were generated.
#pragma once

#include "server/front/answers.h"
#include "server/front/event_reader.h"
#include "server/front/ollama_program.h"
#include "server/front/request_rows.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::server {

// What is known of a request when it is sent.
struct OllamaSent {
    OllamaRoute route = OllamaRoute::chat;
    bool usage_asked = false;                       // "include_usage" by the client itself
    std::string id;                                 // "request_id" of the client; may be empty
    std::function<std::string(int32_t token)> said; // what a token adds to a text
};

class OllamaExchange {
public:
    OllamaExchange(OllamaSent sent, std::shared_ptr<RequestRows> rows, Answers& answers)
        : sent_(std::move(sent)), rows_(std::move(rows)), answers_(answers) {}

    // A whole answer, or a line of a stream in Ollama's words.
    std::string object(const std::string& text);
    // An event of a stream in OpenAI's words.
    std::string event(const ServerEvent& event);
    // No event comes any more.
    std::string rest() { return std::exchange(held_back_, {}); }

private:
    struct Collected {
        std::vector<std::string> rows, prompt; // JSON; of the prompt with the token that is in that place
        std::vector<int32_t> prompt_tokens;
        std::string none; // RequestRows::none()
    };
    void read(const OrderedJson& body);
    Collected collect(int64_t n);
    bool is_said(const std::string& told) const;
    std::string end_members() const;

    const OllamaSent sent_;
    const std::shared_ptr<RequestRows> rows_;
    Answers& answers_;
    std::string text_;      // of the answer
    bool all_text_ = true;  // it is all that was generated: no thoughts, no calls of tools
    std::string held_back_; // that it has ended is said behind the rows
};

} // namespace attnscope::server
