#include "server/front/llama_stream.h"

#include "base/bounded_json.h"

#include <limits>
#include <utility>

namespace attnscope::server {

namespace {

constexpr int64_t most_an_event = 1 << 10; // tokens; more of them in one event are not believed

std::string text_at(const Json& object, const char* name) {
    return object.contains(name) && object[name].is_string() ? object[name].get<std::string>() : std::string();
}

int64_t whole_at(const Json& object, const char* name, int64_t otherwise) {
    return object.contains(name) ? base::json_whole(object[name]).value_or(otherwise) : otherwise;
}

double seconds_at(const Json& timings, const char* name) {
    return timings.contains(name) && timings[name].is_number() ? timings[name].get<double>() / 1000 : 0;
}

std::optional<int32_t> only_token(const Json& body) {
    const auto at = body.find("tokens");
    if (at == body.end() || !at->is_array() || at->size() != 1) return std::nullopt;
    const auto id = base::json_whole((*at)[0]);
    const bool fits = id && *id >= 0 && *id <= std::numeric_limits<int32_t>::max();
    return fits ? std::optional(static_cast<int32_t>(*id)) : std::nullopt;
}

std::string failure_of(const Json& error) {
    const bool worded = error.is_object() && error.contains("message") && error["message"].is_string();
    return worded              ? error["message"].get<std::string>()
           : error.is_string() ? error.get<std::string>()
                               : json_text(error);
}

} // namespace

std::optional<StreamPart> LlamaStream::next() {
    while (parts_.empty()) {
        const std::optional<ServerEvent> event = events_.next();
        if (!event) return std::nullopt;
        take(*event);
    }
    StreamPart part = std::move(parts_.front());
    parts_.pop_front();
    return part;
}

void LlamaStream::take(const ServerEvent& event) {
    const Json body = base::json_depth_is_bounded(event.data) ? Json::parse(event.data, nullptr, false) : Json();
    if (!body.is_object()) return;
    if (body.contains("error")) {
        parts_.emplace_back(StreamFailure{failure_of(body["error"])});
        return;
    }
    const bool last = body.contains("stop") && body["stop"] == true;
    const std::string text = text_at(body, "content");
    const int64_t n = whole_at(body, "tokens_predicted", -1);
    if (n - n_told_ <= most_an_event) take_tokens(n, body, last ? "" : text, last);
    if (last) take_end(body, text);
}

void LlamaStream::add_row(std::optional<int32_t> token, StreamToken out) {
    ++n_told_;
    if (rows_) {
        out.row = rows_->next_row(token);
        // A token whose event did not come is known from the query after it.
        if (StreamToken* before = parts_.empty() ? nullptr : std::get_if<StreamToken>(&parts_.back());
            before && !before->prompt && !before->token)
            before->token = rows_->query_token();
        for (RequestRows::PromptRow& p : rows_->take_prompt_rows()) {
            StreamToken prompt;
            prompt.prompt = true;
            prompt.token = p.token;
            prompt.row = std::move(p.row);
            parts_.emplace_back(std::move(prompt));
        }
    }
    out.token = token;
    parts_.emplace_back(std::move(out));
}

void LlamaStream::take_tokens(int64_t n, const Json& body, const std::string& text, bool last) {
    const std::optional<int32_t> newest = last ? std::nullopt : only_token(body);
    while (n_told_ < n) {
        const bool its_own = n_told_ == n - 1;
        StreamToken out;
        if (its_own) {
            out.text = text;
            const auto told = body.find("completion_probabilities");
            if (told != body.end() && told->is_array() && !told->empty()) out.probabilities = (*told)[0];
        }
        add_row(its_own ? newest : std::nullopt, std::move(out));
    }
}

void LlamaStream::take_end(const Json& body, const std::string& text) {
    StreamEnd end = aborted();
    end.text = text;
    const std::string type = text_at(body, "stop_type");
    const bool cut = body.contains("truncated") && body["truncated"] == true;
    end.finish_reason = type != "limit" ? "stop" : cut ? "context" : "length";
    end.end_of_text = type == "eos";
    end.stopping_word = text_at(body, "stopping_word");
    end.n_prompt = whole_at(body, "tokens_evaluated", end.n_prompt);
    end.n_generated = whole_at(body, "tokens_predicted", n_told_);
    const Json timings = body.value("timings", Json::object());
    if (timings.is_object()) {
        end.n_reused = whole_at(timings, "cache_n", end.n_reused);
        end.prompt_seconds = seconds_at(timings, "prompt_ms");
        end.generate_seconds = seconds_at(timings, "predicted_ms");
    }
    if (rows_ && rows_->wants().attention) end.n_reused = rows_->n_reused(); // as its rows say
    const Json settings = body.value("generation_settings", Json::object());
    if (settings.is_object())
        end.seed = static_cast<uint32_t>(whole_at(settings, "seed", 0) & std::numeric_limits<uint32_t>::max());
    parts_.emplace_back(std::move(end));
}

StreamEnd LlamaStream::aborted() {
    StreamEnd end;
    end.finish_reason = "aborted";
    end.n_generated = n_told_;
    if (rows_) {
        end.n_prompt = static_cast<int64_t>(rows_->prompt().size());
        end.n_reused = rows_->n_reused();
        end.members = rows_->end_members();
    }
    return end;
}

} // namespace attnscope::server
