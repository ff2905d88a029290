#include "server/dialects/openai_format.h"

#include "server/http/reply.h"

namespace attnscope::server {

Json OpenAiAnswer::object(const char* name, Json choices) const {
    return {{"id", id}, {"object", name}, {"created", created}, {"model", model}, {"choices", std::move(choices)}};
}

Json OpenAiAnswer::logprobs_of(std::span<const ToldToken> tokens) const {
    if (!logprobs) return nullptr;
    return chat ? chat_logprobs(tokens, session) : completion_logprobs(tokens, session);
}

const char* openai_reason(const std::string& finish_reason) {
    return finish_reason == "length" || finish_reason == "context" ? "length" : "stop";
}

Json openai_usage(std::span<const GenerationSummary> answers) {
    const int64_t n_prompt = answers.empty() ? 0 : answers.front().n_prompt;
    int64_t n_generated = 0;
    for (const GenerationSummary& s : answers) n_generated += s.n_generated;
    return {{"prompt_tokens", n_prompt},
            {"completion_tokens", n_generated},
            {"total_tokens", n_prompt + n_generated},
            {"prompt_tokens_details", {{"cached_tokens", answers.empty() ? 0 : answers.front().n_reused}}}};
}

Json OpenAiFormat::chunk(Json choices) const {
    return answer_.object(answer_.chat ? "chat.completion.chunk" : "text_completion", std::move(choices));
}

Json OpenAiFormat::choice(std::string text, const char* finish_reason) {
    shown_ += text.size();
    const std::vector<ToldToken> told = trace_.take(shown_);
    if (first_) text = answer_.echo + text;
    Json out = {{"index", ended_.size()}, {"finish_reason", nullptr}, {"logprobs", nullptr}};
    if (!told.empty()) out["logprobs"] = answer_.logprobs_of(told);
    if (finish_reason) out["finish_reason"] = finish_reason;
    if (answer_.chat) {
        out["delta"] = {{"content", text}};
        if (first_) out["delta"]["role"] = "assistant";
    } else {
        out["text"] = text;
    }
    first_ = false;
    return out;
}

std::string OpenAiFormat::token(const GenerationEvent& event, const std::string& attention) {
    trace_.add(event);
    // A chunk without text and attention says nothing: part of a character, or of what may be a stop sequence.
    if (event.text.empty() && !event.frame()) return {};
    std::string text = json_text(chunk(Json::array({choice(event.text, nullptr)})));
    if (event.frame()) {
        text.pop_back();
        text += ",\"attention\":" + attention + "}";
    }
    return "data: " + text + "\n\n";
}

std::string OpenAiFormat::prompt_row(const GenerationEvent& event, const std::string& attention) {
    Json body = chunk(Json::array());
    body["prompt_token"] = event.token;
    std::string text = json_text(body);
    text.pop_back();
    return "data: " + text + ",\"attention\":" + attention + "}\n\n";
}

std::string OpenAiFormat::done(const std::string& text, const Generation& generation) {
    const GenerationSummary s = generation.summary();
    std::string out;
    if (!text.empty() || (first_ && !answer_.echo.empty()))
        out += "data: " + json_text(chunk(Json::array({choice(text, nullptr)}))) + "\n\n";
    Json last = chunk(Json::array({choice("", openai_reason(s.finish_reason))}));
    if (answer_.chat) last["choices"][0]["delta"] = Json::object();
    if (generation.request.attention || generation.request.record) last["summary"] = summary_json(generation);
    out += "data: " + json_text(last) + "\n\n";
    ended_.push_back(s);
    trace_ = TokenTrace(answer_.session);
    shown_ = 0;
    first_ = true;
    if (ended_.size() < size_t(answer_.n)) return out;
    if (answer_.usage) {
        Json body = chunk(Json::array());
        body["usage"] = openai_usage(ended_);
        out += "data: " + json_text(body) + "\n\n";
    }
    return out + "data: [DONE]\n\n";
}

std::string OpenAiFormat::failed(const std::string& message) {
    return "data: " + json_text(error_body(Dialect::openai, 500, message)) + "\n\ndata: [DONE]\n\n";
}

} // namespace attnscope::server
