#include "server/front/request_rows.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

WatchOptions watch_options(const AttentionWants& wants, const std::vector<int32_t>& prompt,
                           const RowsOptions& options) {
    WatchOptions out;
    out.slot = options.slot;
    out.model_file = options.model_file;
    out.prompt = prompt;
    out.prompt_rows = wants.prompt_rows;
    out.frame_bytes = options.frame_bytes;
    out.patience = options.patience;
    out.keep_frames = wants.attention.has_value();
    // What was overtaken is not looked at again, unless it counts.
    out.latest =
        options.streams && wants.flow == Flow::latest && out.keep_frames && wants.attention->accumulate.empty();
    return out;
}

} // namespace

RequestRows::RequestRows(LiveSequences& live, AttentionWants wants, std::vector<int32_t> prompt,
                         const RowsOptions& options)
    : live_(live), wants_(std::move(wants)), options_(options), prompt_(std::move(prompt)),
      watch_(live, watch_options(wants_, prompt_, options)) {}

std::string TokenRow::json() const {
    if (!error.empty()) return json_text({{"error", error}});
    return answer ? attention_text(*answer, context) : "null";
}

Result<void> RequestRows::find() {
    Result<Watch::Found> found = watch_.find(expected_);
    if (!found) return found.error();
    n_reused_ = found->n_reused;
    return wants_.attention ? look(*found) : Result<void>();
}

Result<void> RequestRows::look(const Watch::Found& found) {
    Result<std::unique_ptr<KeyStore>> keys = live_.keys(found.line, static_cast<int64_t>(prompt_.size()));
    if (!keys) return keys.error();
    keys_ = std::move(*keys);
    if (Result<void> fits = check_request(*wants_.attention, keys_->geometry()); !fits) return fits;
    ViewOptions options;
    options.n_prompt = static_cast<int64_t>(prompt_.size());
    options.n_threads = options_.n_threads;
    Result<std::unique_ptr<AttentionView>> view = AttentionView::create(*keys_, *wants_.attention, options);
    if (!view) return view.error();
    view_ = std::move(*view);
    for (const std::shared_ptr<const Frame>& frame : found.prompt) {
        if (!frame) return Error{ErrorKind::io, "rows of the prompt are more than may wait (--stream-mb)"};
        prompt_rows_.push_back({frame->token, told(*frame)});
    }
    return {};
}

TokenRow RequestRows::told(const Frame& frame) {
    TokenRow out;
    if (frame.q.empty()) return out;
    out.context = {wants_.attention->format, n_reused_, frame.verdict};
    Result<std::optional<AttentionAnswer>> answer = view_->next(frame);
    if (!answer)
        out.error = answer.error().message;
    else
        out.answer = std::move(*answer);
    return out;
}

// Where newer frames wait already and the client wants the latest, this one is not sent, but counted.
TokenRow RequestRows::newest(const Frame& frame, int64_t n) {
    const bool overtaken = options_.streams && wants_.flow == Flow::latest && watch_.arrived() > n + 1;
    n_skipped_ += overtaken;
    if (overtaken && wants_.attention->accumulate.empty()) return {};
    TokenRow row = told(frame);
    if (overtaken) row.answer.reset();
    return row;
}

TokenRow RequestRows::next_row(std::optional<int32_t> token) {
    const int64_t n = n_told_++;
    const std::optional<int32_t> before = n == 0 ? std::optional<int32_t>() : std::exchange(last_, std::nullopt);
    last_ = token;
    query_token_.reset();
    if (token && expected_.n < 0 && static_cast<int64_t>(expected_.tokens.size()) == n && (n == 0 || !wants_.attention))
        expected_.tokens.push_back(*token);
    if (!wants_.attention) return {};
    TokenRow failed;
    failed.error = failure_;
    if (!failure_.empty()) return failed;
    const auto fail = [&](const Error& error) {
        failed.error = failure_ = error.message;
        failed_at_first_ = n == 0;
        return failed;
    };
    if (!view_) {
        if (Result<void> r = find(); !r) return fail(r.error());
    }
    Result<std::shared_ptr<const Frame>> frame = watch_.frame(n, before);
    if (!frame) return fail(frame.error());
    query_token_ = (*frame)->token;
    if ((*frame)->index >= keys_->size()) {
        if (Result<void> r = keys_->append(**frame); !r) return fail(r.error());
    }
    return newest(**frame, n);
}

const PositionScores* RequestRows::accumulated() const {
    if (!view_ || wants_.attention->accumulate.empty()) return nullptr;
    return &view_->scores();
}

std::string RequestRows::scores() const {
    const PositionScores* const scores = accumulated();
    return scores ? json_text(scores_json(*scores, wants_.attention->accumulate)) : std::string();
}

Result<RecordedLine> RequestRows::recorded() {
    if (n_told_ == 0) return Error{ErrorKind::not_found, "nothing was generated"};
    if (!failure_.empty()) return Error{ErrorKind::not_found, failure_};
    if (!wants_.attention) {
        if (Result<void> r = find(); !r) return r.error();
    }
    Result<LineId> line = watch_.line();
    if (!line) return line.error();
    return live_.recorded(*line);
}

std::string RequestRows::end_members() {
    std::string out;
    const auto add = [&](const char* name, const std::string& value) {
        out += (out.empty() ? "\"" : ",\"") + std::string(name) + "\":" + value;
    };
    if (const std::string told = scores(); !told.empty()) add("scores", told);
    if (wants_.attention && wants_.flow == Flow::latest) add("skipped", std::to_string(n_skipped_));
    if (!options_.record) return out;
    const Result<RecordedLine> where = recorded();
    if (where) {
        add("recording", json_text(where->name));
        add("sequence", std::to_string(where->sequence));
    } else {
        add("recording_error", json_text(where.error().message));
    }
    return out;
}

std::string with_members(const std::string& object, const std::string& members) {
    const size_t end = object.find_last_not_of(" \t\r\n");
    if (end == std::string::npos || object[end] != '}' || members.empty()) return object;
    const size_t last = object.find_last_not_of(" \t\r\n", end - 1);
    const bool empty = last != std::string::npos && object[last] == '{';
    return object.substr(0, end) + (empty ? "" : ",") + members + object.substr(end);
}

std::string halo_weave_event(const Json& body, const std::string& attention) {
    std::string text = json_text(body);
    if (!attention.empty()) text = with_members(text, "\"attention\":" + attention);
    return "event: message\ndata: " + text + "\n\n";
}

} // namespace attnscope::server
