// llama-server's own stream (/completion) as tokens with their rows, for whoever tells them in other words.
#pragma once

#include "server/front/event_reader.h"
#include "server/front/request_rows.h"
#include "server/http/request_fields.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace attnscope::server {

// A generated token, or one of the prompt.
struct StreamToken {
    bool prompt = false;
    std::optional<int32_t> token; // known but for some whose text came later, where no attention is asked for
    std::string text;             // whole characters; may be empty
    TokenRow row;
    Json probabilities; // llama-server's "completion_probabilities"; null: none
};
struct StreamEnd {
    std::string text;          // held back until now
    std::string finish_reason; // "stop", "length", "context", "aborted"
    bool end_of_text = false;  // of "stop": else a stop sequence
    std::string stopping_word;
    int64_t n_prompt = 0, n_generated = 0, n_reused = 0;
    double prompt_seconds = 0, generate_seconds = 0;
    uint32_t seed = 0;
    std::string members; // RequestRows::end_members()
};
struct StreamFailure {
    std::string why;
};
using StreamPart = std::variant<StreamToken, StreamEnd, StreamFailure>;

class LlamaStream {
public:
    // `rows`: null where nothing is asked of attention.
    explicit LlamaStream(std::unique_ptr<RequestRows> rows) : rows_(std::move(rows)) {}
    // False: what comes is no stream of events.
    bool add(std::string_view bytes) { return events_.add(bytes); }
    // The next part of what was added. A row may take its time.
    std::optional<StreamPart> next();
    // Of an answer that somebody ended before the program did.
    StreamEnd aborted();
    const RequestRows* rows() const { return rows_.get(); }

private:
    void take(const ServerEvent& event);
    void take_tokens(int64_t n, const Json& body, const std::string& text, bool last);
    void take_end(const Json& body, const std::string& text);
    void add_row(std::optional<int32_t> token, StreamToken out);

    EventReader events_;
    const std::unique_ptr<RequestRows> rows_;
    std::deque<StreamPart> parts_;
    int64_t n_told_ = 0;
};

} // namespace attnscope::server
