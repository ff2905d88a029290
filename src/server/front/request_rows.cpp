#include "server/front/request_rows.h"

#include "server/http/event_stream.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

WatchOptions watch_options(const AttentionWants& wants, const std::vector<int32_t>& prompt,
                           const RowsOptions& options) {
    WatchOptions out;
    out.slot = options.slot;
    out.prompt = prompt;
    out.prompt_rows = wants.prompt_rows;
    out.frame_bytes = options.frame_bytes;
    out.patience = options.patience;
    return out;
}

std::string error_json(const Error& error) {
    return json_text({{"error", error.message}});
}

} // namespace

RequestRows::RequestRows(LiveSequences& live, AttentionWants wants, std::vector<int32_t> prompt,
                         const RowsOptions& options)
    : live_(live), wants_(std::move(wants)), options_(options), prompt_(std::move(prompt)),
      watch_(live, watch_options(wants_, prompt_, options)) {}

Result<void> RequestRows::find() {
    Result<Watch::Found> found = watch_.find(expected_);
    if (!found) return found.error();
    n_reused_ = found->n_reused;
    Result<std::unique_ptr<KeyStore>> keys = live_.keys(found->line, static_cast<int64_t>(prompt_.size()));
    if (!keys) return keys.error();
    keys_ = std::move(*keys);
    if (Result<void> fits = check_request(*wants_.attention, keys_->geometry()); !fits) return fits;
    ViewOptions options;
    options.n_prompt = static_cast<int64_t>(prompt_.size());
    options.n_threads = options_.n_threads;
    Result<std::unique_ptr<AttentionView>> view = AttentionView::create(*keys_, *wants_.attention, options);
    if (!view) return view.error();
    view_ = std::move(*view);
    for (const std::shared_ptr<const Frame>& frame : found->prompt) {
        if (!frame) return Error{ErrorKind::io, "rows of the prompt are more than may wait (--stream-mb)"};
        prompt_rows_.push_back({frame->token, told(*frame)});
    }
    return {};
}

std::string RequestRows::told(const Frame& frame) {
    if (frame.q.empty()) return "null";
    const Result<std::optional<AttentionAnswer>> answer = view_->next(frame);
    if (!answer) return error_json(answer.error());
    if (!*answer) return "null";
    return attention_text(**answer, {wants_.attention->format, n_reused_, frame.verdict});
}

std::string RequestRows::next(std::optional<int32_t> token) {
    const int64_t n = n_told_++;
    const std::optional<int32_t> before = n == 0 ? std::optional<int32_t>() : std::exchange(last_, std::nullopt);
    last_ = token;
    query_token_.reset();
    if (!failure_.empty()) return failure_;
    const auto fail = [&](const Error& error) { return failure_ = error_json(error); };
    if (!view_) {
        if (token && expected_.n < 0) expected_.tokens = {*token};
        if (Result<void> r = find(); !r) return fail(r.error());
    }
    Result<std::shared_ptr<const Frame>> frame = watch_.frame(n, before);
    if (!frame) return fail(frame.error());
    query_token_ = (*frame)->token;
    if ((*frame)->index >= keys_->size()) {
        if (Result<void> r = keys_->append(**frame); !r) return fail(r.error());
    }
    return told(**frame);
}

std::string RequestRows::scores() const {
    if (!view_ || wants_.attention->accumulate.empty()) return {};
    return json_text(scores_json(view_->scores(), wants_.attention->accumulate));
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
