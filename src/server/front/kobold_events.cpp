#include "server/front/kobold_events.h"

#include "server/dialects/halo_weave.h"
#include "server/dialects/kobold_words.h"
#include "server/http/reply.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

constexpr double impossible = -9999; // the logarithm of a probability of 0, which JSON has no number for

template <typename... Ways> struct Each : Ways... { using Ways::operator()...; };
template <typename... Ways> Each(Ways...) -> Each<Ways...>;

// llama-server's probabilities of a token as a chat's are told.
Json told(Json of) {
    of.erase("id");
    if (of.contains("logprob") && of["logprob"].is_number())
        of["logprob"] = std::max(of["logprob"].get<double>(), impossible);
    if (of.contains("top_logprobs") && of["top_logprobs"].is_array()) {
        for (Json& one : of["top_logprobs"]) {
            if (one.is_object()) one = told(std::move(one));
        }
    }
    return of;
}

std::string attention_member(const TokenRow& row) {
    return "\"attention\":" + row.json();
}

} // namespace

Json done_json(const StreamEnd& end, const std::string& id) {
    Json out = {{"type", "done"},
                {"finish_reason", end.finish_reason},
                {"total_tokens", end.n_generated},
                {"prompt_tokens", end.n_prompt},
                {"reused", end.n_reused},
                {"request_id", id}};
    if (!end.text.empty()) out["text"] = end.text;
    return out;
}

std::string halo_weave_text(const StreamPart& part, const std::string& id) {
    const auto event = [](const Json& body, const std::string& members) {
        return "event: message\ndata: " + with_members(json_text(body), members) + "\n\n";
    };
    return std::visit(Each{[&](const StreamToken& t) {
                               const int32_t token = t.token.value_or(-1);
                               Json body = {{"type", t.prompt ? "prompt" : "token"}, {"request_id", id}};
                               body["token"] = t.prompt ? Json{{"token_id", token}} : halo_weave_token(token, t.text);
                               return event(body, attention_member(t.row));
                           },
                           [&](const StreamEnd& end) { return event(done_json(end, id), end.members); },
                           [&](const StreamFailure& failure) {
                               return event({{"type", "error"}, {"error", failure.why}, {"request_id", id}}, "");
                           }},
                      part);
}

std::string kobold_text(const StreamPart& part, const KoboldRequest& request) {
    const bool rows = request.wants.attention.has_value();
    return std::visit(
        Each{[&](const StreamToken& t) {
                 Json body = {{"token", t.text}, {"finish_reason", nullptr}};
                 if (t.prompt) body["prompt_token"] = t.token.value_or(-1);
                 return kobold_event(body, rows ? attention_member(t.row) : "");
             },
             [&](const StreamEnd& end) {
                 const Json body = {{"token", end.text}, {"finish_reason", kobold_reason(end.finish_reason)}};
                 if (!rows && !request.record) return kobold_event(body, "");
                 Json summary = {{"finish_reason", end.finish_reason},
                                 {"total_tokens", end.n_generated},
                                 {"prompt_tokens", end.n_prompt},
                                 {"reused", end.n_reused}};
                 return kobold_event(body, "\"summary\":" + with_members(json_text(summary), end.members));
             },
             [&](const StreamFailure& failure) {
                 return "event: error\ndata: " + json_text(error_body(Dialect::kobold, 500, failure.why)) + "\n\n";
             }},
        part);
}

void KoboldWhole::add_row(std::string& list, const TokenRow& row) {
    if (!request_.wants.attention) return;
    std::string one = row.json();
    if (bytes_ + one.size() > max_collected_bytes) {
        ++n_omitted_;
        one = "null";
    }
    bytes_ += one.size();
    if (!list.empty()) list += ',';
    list += one;
}

void KoboldWhole::add(const StreamToken& token) {
    if (!token.prompt && rows_.empty() && !token.row.error.empty()) none_ = token.row.json();
    add_row(token.prompt ? prompt_rows_ : rows_, token.row);
    if (!token.prompt) text_ += token.text;
    if (token.probabilities.is_object()) probabilities_.push_back(told(token.probabilities));
}

std::string KoboldWhole::text(const StreamEnd& end) {
    // Tokens of the stop sequence have no text.
    while (!end.stopping_word.empty() && !probabilities_.empty() && probabilities_.back().value("token", Json()) == "")
        probabilities_.erase(probabilities_.size() - 1);
    Json result = {{"text", text_ + end.text},
                   {"finish_reason", kobold_reason(end.finish_reason)},
                   {"prompt_tokens", end.n_prompt},
                   {"completion_tokens", end.n_generated}};
    if (request_.fields.logprobs) result["logprobs"] = {{"content", std::move(probabilities_)}, {"refusal", nullptr}};
    std::string out = json_text({{"results", Json::array({std::move(result)})}});
    if (request_.wants.attention) {
        out = with_members(out, "\"attention\":" + (none_.empty() ? "[" + rows_ + "]" : none_));
        if (request_.wants.prompt_rows) out = with_members(out, "\"prompt_attention\":[" + prompt_rows_ + "]");
        if (n_omitted_ > 0) out = with_members(out, "\"attention_omitted\":" + std::to_string(n_omitted_));
        out = with_members(out, "\"reused\":" + std::to_string(end.n_reused));
    }
    return with_members(out, end.members);
}

} // namespace attnscope::server
