// What one request asks of the attention of the tokens that the program generates for it, as JSON.
#pragma once

#include "server/dialects/attention_wants.h"
#include "server/front/watch.h"
#include "server/http/event_stream.h"

#include <attnscope/attention_view.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::server {

struct RowsOptions {
    int32_t slot = -1;
    std::string model_file;                 // WatchOptions
    bool record = false;                    // where its line is recorded is asked at the end
    bool streams = true;                    // somebody takes the rows while they come: Flow::latest may skip some
    size_t frame_bytes = size_t(128) << 20; // Watch
    int32_t n_threads = 1;
    std::chrono::milliseconds patience{5000};
};

// The row of one generated token.
struct TokenRow {
    std::optional<AttentionAnswer> answer; // nothing: not its turn, overtaken, or an error
    AnswerContext context;
    std::string error;        // in words; empty: none
    std::string json() const; // "null" where there is nothing
};

// Belongs to one thread at a time.
class RequestRows {
public:
    RequestRows(LiveSequences& live, AttentionWants wants, std::vector<int32_t> prompt, const RowsOptions& options);

    // Before the request is sent.
    Result<void> begin() { return watch_.begin(); }
    // From any thread: Watch.
    void close() { watch_.close(); }
    // Of the next generated token, which the program has told; after an error there is none for the rest. `token`: the generated one,
    // where it is known.
    TokenRow next_row(std::optional<int32_t> token);
    std::string next(std::optional<int32_t> token) { return next_row(token).json(); }
    // The token whose query the last row is of: the one generated before it. Nothing where there was no row.
    std::optional<int32_t> query_token() const { return query_token_; }
    // Rows that next() would give at once.
    int64_t n_waiting() { return watch_.arrived() - n_told_; }
    // Of an answer that is whole, before next(): how many tokens it has, and which, where that is known.
    void expect(int64_t n, std::vector<int32_t> tokens) { expected_ = {std::move(tokens), n}; }
    int64_t n_told() const { return n_told_; }
    bool failed() const { return !failure_.empty(); }
    // What a whole answer has for attention where not even its first token has a row: why, told once. Empty: there are rows.
    std::string none() const { return failed_at_first_ ? json_text({{"error", failure_}}) : std::string(); }
    // Of the prompt's tokens, where they are asked for; known once next() was called.
    struct PromptRow {
        int32_t token = -1;
        TokenRow row;
    };
    std::vector<PromptRow> take_prompt_rows() { return std::exchange(prompt_rows_, {}); }
    int64_t n_reused() const { return n_reused_; }
    const AttentionWants& wants() const { return wants_; }
    int64_t n_skipped() const { return n_skipped_; }
    const std::vector<int32_t>& prompt() const { return prompt_; }
    // What was accumulated; null where nothing was asked for.
    const PositionScores* accumulated() const;
    // JSON of it; empty where nothing was asked for.
    std::string scores() const;
    // Members of JSON for the end of an answer, as far as they were asked for: "scores", "skipped", "recording" with "sequence", or
    // "recording_error". Empty: none.
    std::string end_members();

private:
    Result<void> find();
    Result<void> look(const Watch::Found& found);
    TokenRow told(const Frame& frame);
    TokenRow newest(const Frame& frame, int64_t n);
    Result<RecordedLine> recorded();

    LiveSequences& live_;
    const AttentionWants wants_;
    const RowsOptions options_;
    const std::vector<int32_t> prompt_;
    Watch watch_;
    Watch::Told expected_;
    std::unique_ptr<KeyStore> keys_;
    std::unique_ptr<AttentionView> view_; // null: not found yet
    std::string failure_;                 // in words; empty: none
    bool failed_at_first_ = false;
    std::vector<PromptRow> prompt_rows_;
    std::optional<int32_t> last_, query_token_; // token told, where it is known
    int64_t n_told_ = 0, n_reused_ = 0, n_skipped_ = 0;
};

// Where several places of a JSON object are known only as text: `object` with more members before its closing brace. What is no
// object comes back as it is.
std::string with_members(const std::string& object, const std::string& members);
// An event of Halo Weave's stream; `attention`: JSON, empty where there is none.
std::string halo_weave_event(const Json& body, const std::string& attention);

} // namespace attnscope::server
