#include "server/front/llama_exchange.h"

#include "base/bounded_json.h"
#include "server/http/event_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

constexpr int64_t most_tokens = 1 << 20;   // that a program may say it generated
constexpr int64_t most_an_event = 1 << 10; // more of them in one event are not believed

// Null: it is none, or nested as nothing is that we know.
OrderedJson parsed(const std::string& text) {
    return base::json_depth_is_bounded(text) ? OrderedJson::parse(text, nullptr, false) : OrderedJson();
}

std::string text_of(const OrderedJson& value) {
    return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

const OrderedJson* member(const OrderedJson& object, const char* name) {
    if (!object.is_object()) return nullptr;
    const auto at = object.find(name);
    return at == object.end() ? nullptr : &*at;
}

int64_t whole_number(const OrderedJson* value) {
    return value && value->is_number_integer() ? value->get<int64_t>() : -1;
}

std::optional<int32_t> only_token(const OrderedJson* tokens) {
    if (!tokens || !tokens->is_array() || tokens->size() != 1 || !(*tokens)[0].is_number_integer()) return std::nullopt;
    return (*tokens)[0].get<int32_t>();
}

// The event with other data; its other lines stay.
std::string with_data(const ServerEvent& event, const std::string& data) {
    std::string out;
    std::string_view text = event.text;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        if (!line.empty() && line.rfind("data:", 0) != 0) out += std::string(line) + "\n";
    }
    return out + "data: " + data + "\n\n";
}

bool is_last(const OrderedJson& body) {
    if (const OrderedJson* stop = member(body, "stop")) return *stop == true;
    const OrderedJson* choices = member(body, "choices");
    if (!choices || !choices->is_array() || choices->empty()) return choices != nullptr; // of usage
    const OrderedJson* reason = member((*choices)[0], "finish_reason");
    return reason && !reason->is_null();
}

} // namespace

int64_t LlamaExchange::n_told(const OrderedJson& body) const {
    int64_t n = -1;
    if (route == LlamaRoute::completion) {
        n = whole_number(member(body, "tokens_predicted"));
    } else if (const OrderedJson* timings = member(body, "timings")) {
        n = whole_number(member(*timings, "predicted_n"));
    } else if (const OrderedJson* usage = member(body, "usage")) {
        n = whole_number(member(*usage, "completion_tokens"));
    }
    return n > most_tokens ? -1 : n;
}

std::string LlamaExchange::bare_event(const OrderedJson& like, const std::string& members) const {
    OrderedJson body = OrderedJson::object();
    if (route == LlamaRoute::completion) {
        body = {{"index", 0}, {"content", ""}, {"tokens", OrderedJson::array()}, {"stop", false}};
    } else {
        body["choices"] = OrderedJson::array();
        for (const char* name : {"created", "id", "model", "object"}) {
            if (const OrderedJson* value = member(like, name)) body[name] = *value;
        }
    }
    return "data: " + with_members(text_of(body), members) + "\n\n";
}

std::string LlamaExchange::prompt_events(const OrderedJson& like) {
    std::string out;
    for (const RequestRows::PromptRow& row : rows->take_prompt_rows())
        out += bare_event(like, fmt::format("\"prompt_token\":{},\"attention\":{}", row.token, row.row.json()));
    return out;
}

std::string LlamaExchange::end_members() const {
    if (const PositionScores* scores = rows->accumulated(); scores && answers)
        answers->keep_scores(id, rows->prompt(), *scores);
    return rows->end_members();
}

std::string LlamaExchange::token_events(const OrderedJson& body, int64_t n, bool last, std::string& members) {
    std::string before;
    const std::optional<int32_t> token =
        route == LlamaRoute::completion && !last ? only_token(member(body, "tokens")) : std::nullopt;
    while (rows->n_told() < n) {
        const bool its_own = rows->n_told() == n - 1;
        const std::string row = rows->next(its_own ? token : std::nullopt);
        if (!rows->wants().attention) continue; // only where it is recorded is asked
        before += prompt_events(body);
        if (its_own && !last)
            members = "\"attention\":" + row;
        else
            before += bare_event(body, "\"attention\":" + row);
    }
    return before;
}

std::string LlamaExchange::event(const ServerEvent& event) {
    OrderedJson body = parsed(event.data);
    if (!body.is_object() || body.contains("error")) return event.text;
    const int64_t told = n_told(body);
    const int64_t n = told - rows->n_told() > most_an_event ? -1 : told;
    const bool last = is_last(body);
    std::string members;
    const std::string before = token_events(body, n, last, members);
    bool touched = false;
    if (route == LlamaRoute::openai && !timings_asked && !last) touched = body.erase("timings") > 0;
    if (last && n >= 0)
        members = "\"summary\":" + with_members(fmt::format("{{\"reused\":{}}}", rows->n_reused()), end_members());
    if (!touched && members.empty()) return before + event.text;
    return before + with_data(event, with_members(touched ? text_of(body) : event.data, members));
}

std::string LlamaExchange::whole(const std::string& text) {
    OrderedJson body = parsed(text);
    if (!body.is_object() || body.contains("error")) return text;
    const int64_t n = n_told(body);
    if (n < 0) return text;
    const OrderedJson* told = member(body, "tokens");
    const bool known = told && told->is_array() && static_cast<int64_t>(told->size()) == n;
    std::vector<int32_t> tokens;
    for (const OrderedJson& token : known ? *told : OrderedJson::array()) {
        if (token.is_number_integer()) tokens.push_back(token.get<int32_t>());
    }
    rows->expect(n, std::move(tokens));
    std::string list = "[", prompt = "[";
    int64_t n_omitted = 0;
    size_t bytes = 0;
    const auto add = [&](std::string& to, std::string one) {
        if (bytes + one.size() > max_collected_bytes) {
            ++n_omitted;
            one = "null";
        }
        bytes += one.size();
        if (to.size() > 1) to += ',';
        to += one;
    };
    while (rows->n_told() < n) {
        const OrderedJson* token = known ? &(*told)[static_cast<size_t>(rows->n_told())] : nullptr;
        std::string row =
            rows->next(token && token->is_number_integer() ? std::optional(token->get<int32_t>()) : std::nullopt);
        for (const RequestRows::PromptRow& p : rows->take_prompt_rows()) add(prompt, p.row.json());
        add(list, std::move(row));
    }
    std::string members = fmt::format("\"reused\":{}", rows->n_reused());
    const std::string none = rows->none();
    if (rows->wants().attention) members = "\"attention\":" + (none.empty() ? list + "]" : none) + "," + members;
    if (rows->wants().prompt_rows) members += ",\"prompt_attention\":" + prompt + "]";
    if (n_omitted > 0) members += fmt::format(",\"attention_omitted\":{}", n_omitted);
    if (const std::string end = end_members(); !end.empty()) members += "," + end;
    if (route == LlamaRoute::completion && !tokens_asked && told) {
        body["tokens"] = OrderedJson::array();
        return with_members(text_of(body), members);
    }
    return with_members(text, members);
}

} // namespace attnscope::server
