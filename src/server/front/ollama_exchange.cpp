#include "server/front/ollama_exchange.h"

#include "base/bounded_json.h"
#include "server/http/event_stream.h"

#include <fmt/format.h>

#include <utility>

namespace attnscope::server {

namespace {

constexpr int64_t most_tokens = 1 << 20; // that a program may say it generated

OrderedJson parsed(const std::string& text) {
    return base::json_depth_is_bounded(text) ? OrderedJson::parse(text, nullptr, false) : OrderedJson();
}

std::string text_of(const OrderedJson& value) {
    return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

const OrderedJson* member(const OrderedJson* object, const char* name) {
    if (!object || !object->is_object()) return nullptr;
    const auto at = object->find(name);
    return at == object->end() ? nullptr : &*at;
}

const OrderedJson* choice(const OrderedJson& body) {
    const OrderedJson* choices = member(&body, "choices");
    return choices && choices->is_array() && !choices->empty() ? &(*choices)[0] : nullptr;
}

std::string string_of(const OrderedJson* value) {
    return value && value->is_string() ? value->get<std::string>() : std::string();
}

// How many tokens were generated; -1: this part of an answer does not say. Ollama leaves out what is 0.
int64_t n_told(const OrderedJson& body, OllamaRoute route) {
    const bool openai = route == OllamaRoute::openai_chat || route == OllamaRoute::openai_completion;
    const OrderedJson* n = nullptr;
    if (openai) {
        n = member(member(&body, "usage"), "completion_tokens");
    } else {
        const OrderedJson* done = member(&body, "done");
        if (!done || *done != true) return -1;
        n = member(&body, "eval_count");
        if (!n) return 0;
    }
    return n && n->is_number_integer() && *n <= most_tokens ? n->get<int64_t>() : -1;
}

std::string without_space(const std::string& text) {
    return text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
}

std::string list_of(const std::vector<std::string>& all, int64_t& n_omitted, size_t& bytes) {
    std::string out = "[";
    for (const std::string& one : all) {
        if (out.size() > 1) out += ',';
        const bool omit = bytes + one.size() > max_collected_bytes;
        n_omitted += omit;
        bytes += one.size();
        out += omit ? "null" : one;
    }
    return out + "]";
}

} // namespace

// The text of an answer, or of a part of one.
void OllamaExchange::read(const OrderedJson& body) {
    const OrderedJson* said = &body;
    if (const OrderedJson* first = choice(body)) {
        said = member(first, "delta") ? member(first, "delta") : member(first, "message");
        if (!said) said = first;
    } else if (const OrderedJson* message = member(&body, "message")) {
        said = message;
    }
    for (const char* name : {"content", "text", "response"}) text_ += string_of(member(said, name));
    for (const char* name : {"thinking", "reasoning"}) all_text_ = all_text_ && string_of(member(said, name)).empty();
    all_text_ = all_text_ && !member(said, "tool_calls");
}

// Is what the rows are of what the answer says? Its last token has no row that tells it, and what ends a text is not in it.
bool OllamaExchange::is_said(const std::string& told) const {
    if (!all_text_) return true;
    const std::string a = without_space(told), b = without_space(text_);
    return a.starts_with(b) || b.starts_with(a);
}

OllamaExchange::Collected OllamaExchange::collect(int64_t n) {
    Collected out;
    rows_->expect(n, {});
    std::string told;
    bool all_known = true;
    while (rows_->n_told() < n) {
        out.rows.push_back(rows_->next({}));
        const std::optional<int32_t> before = rows_->query_token();
        all_known = all_known && before.has_value();
        if (before && rows_->n_told() > 1) told += sent_.said(*before);
        for (const RequestRows::PromptRow& p : rows_->take_prompt_rows()) {
            out.prompt.push_back(p.row.json());
            out.prompt_tokens.push_back(p.token);
        }
    }
    if (!rows_->wants().attention) return {};
    if (std::string none = rows_->none(); !none.empty()) return {{}, {}, {}, std::move(none)};
    if (!all_known || is_said(told)) return out;
    const std::string error =
        json_text({{"error", "no attention: what was captured for this prompt is not what the answer says"}});
    return {{}, {}, {}, error};
}

std::string OllamaExchange::end_members() const {
    if (const PositionScores* scores = rows_->accumulated()) answers_.keep_scores(sent_.id, rows_->prompt(), *scores);
    return rows_->end_members();
}

std::string OllamaExchange::object(const std::string& text) {
    const OrderedJson body = parsed(text);
    if (!body.is_object() || body.contains("error")) return text;
    read(body);
    const int64_t n = n_told(body, sent_.route);
    if (n < 0) return text;
    const Collected all = collect(n);
    int64_t n_omitted = 0;
    size_t bytes = 0;
    std::string members = fmt::format("\"reused\":{}", rows_->n_reused());
    const std::string list = all.none.empty() ? list_of(all.rows, n_omitted, bytes) : all.none;
    if (rows_->wants().attention) members = "\"attention\":" + list + "," + members;
    if (rows_->wants().prompt_rows) members += ",\"prompt_attention\":" + list_of(all.prompt, n_omitted, bytes);
    if (n_omitted > 0) members += fmt::format(",\"attention_omitted\":{}", n_omitted);
    if (const std::string end = end_members(); !end.empty()) members += "," + end;
    return with_members(text, members);
}

std::string OllamaExchange::event(const ServerEvent& event) {
    OrderedJson body = parsed(event.data);
    if (!body.is_object() || body.contains("error")) return rest() + event.text;
    read(body);
    if (const OrderedJson* first = choice(body)) { // usage here is of none of its tokens
        const bool ends = !string_of(member(first, "finish_reason")).empty();
        if (!ends) return event.text;
        held_back_ += event.text;
        return {};
    }
    const int64_t n = n_told(body, sent_.route);
    if (n < 0) return rest() + event.text;
    const Collected all = collect(n);
    OrderedJson bare = body;
    bare.erase("usage");
    const auto bare_event = [&](const std::string& members) {
        return "data: " + with_members(text_of(bare), members) + "\n\n";
    };
    std::string out;
    for (size_t i = 0; i < all.prompt.size(); ++i)
        out += bare_event(fmt::format("\"prompt_token\":{},\"attention\":{}", all.prompt_tokens[i], all.prompt[i]));
    if (!all.none.empty()) out += bare_event("\"attention\":" + all.none);
    for (const std::string& row : all.rows) out += bare_event("\"attention\":" + row);
    out += rest();
    const std::string summary =
        "\"summary\":" + with_members(fmt::format("{{\"reused\":{}}}", rows_->n_reused()), end_members());
    return out + "data: " + with_members(sent_.usage_asked ? event.data : text_of(bare), summary) + "\n\n";
}

} // namespace attnscope::server
