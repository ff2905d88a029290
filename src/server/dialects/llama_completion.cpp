// llama-server's own completion, /completion and /completions: its shapes, its defaults.
#include "server/generation/generation_fields.h"
#include "server/http/event_stream.h"
#include "server/http/reply.h"

#include <utility>

namespace attnscope::server {

namespace {

constexpr Dialect openai = Dialect::openai;

const char* stop_type(const GenerationSummary& s) {
    return s.finish_reason == "length" || s.finish_reason == "context" ? "limit"
           : s.stop_reason == "eos"                                    ? "eos"
           : s.stop_reason == "stop_sequence"                          ? "word"
                                                                       : "none";
}

Json timings(const GenerationSummary& s) {
    const auto of = [](const char* name, int64_t n, double seconds) {
        const std::string of_name(name);
        const auto count = static_cast<double>(n);
        return Json{{of_name + "_n", n},
                    {of_name + "_ms", seconds * 1e3},
                    {of_name + "_per_token_ms", n > 0 ? seconds * 1e3 / count : 0},
                    {of_name + "_per_second", seconds > 0 ? count / seconds : 0}};
    };
    Json out = of("prompt", s.n_prompt - s.n_reused, s.prompt_seconds);
    out.update(of("predicted", s.n_generated, s.generate_seconds));
    out["cache_n"] = s.n_reused;
    return out;
}

Json settings(const GenerationRequest& g, const GenerationSummary& s, int32_t n_ctx) {
    const SamplingOptions& o = g.options.sampling;
    const auto number = [](float x) { return static_cast<double>(x); };
    return {{"n_ctx", n_ctx},
            {"n_predict", g.options.n_predict},
            {"seed", s.seed},
            {"temperature", number(o.temperature)},
            {"top_k", o.top_k},
            {"top_p", number(o.top_p)},
            {"min_p", number(o.min_p)},
            {"typical_p", number(o.typical_p)},
            {"repeat_penalty", number(o.repeat_penalty)},
            {"repeat_last_n", o.repeat_last_n},
            {"presence_penalty", number(o.presence_penalty)},
            {"frequency_penalty", number(o.frequency_penalty)},
            {"mirostat", o.mirostat},
            {"n_probs", g.n_probs.value_or(0)},
            {"grammar", o.grammar},
            {"stop", g.stops},
            {"ignore_eos", g.options.ignore_eos}};
}

class CompletionFormat : public EventFormat {
public:
    CompletionFormat(const Service& service, std::string prompt)
        : service_(service), prompt_(std::move(prompt)), trace_(service.session) {}

    std::string token(const GenerationEvent& event, const std::string& attention) override {
        ++n_;
        trace_.add(event);
        shown_ += event.text.size();
        Json body = {{"index", 0},    {"content", event.text}, {"tokens", Json::array({event.token})},
                     {"stop", false}, {"id_slot", 0},          {"tokens_predicted", n_}};
        if (event.probabilities)
            body["completion_probabilities"] = completion_probabilities(trace_.take(shown_), service_.session);
        return data(body, event.frame() ? attention : "");
    }
    std::string prompt_row(const GenerationEvent& event, const std::string& attention) override {
        return data({{"index", 0}, {"content", ""}, {"stop", false}, {"prompt_token", event.token}}, attention);
    }
    std::string done(const std::string& text, const Generation& generation) override {
        Json body = last(text, generation);
        if (generation.request.n_probs)
            body["completion_probabilities"] =
                completion_probabilities(trace_.take(shown_ + text.size()), service_.session);
        if (generation.request.attention || generation.request.record) body["summary"] = summary_json(generation);
        return data(body, "");
    }
    std::string failed(const std::string& message) override {
        return "data: " + json_text(error_body(openai, 500, message)) + "\n\n";
    }
    // The last event, and the answer as a whole.
    Json last(const std::string& text, const Generation& generation) const {
        const GenerationSummary s = generation.summary();
        return {{"index", 0},
                {"content", text},
                {"tokens", Json::array()},
                {"id_slot", 0},
                {"stop", true},
                {"model", service_.model.name},
                {"tokens_predicted", s.n_generated},
                {"tokens_evaluated", s.n_prompt},
                {"tokens_cached", s.n_prompt + s.n_generated},
                {"generation_settings", settings(generation.request, s, service_.session.n_ctx())},
                {"prompt", prompt_},
                {"has_new_line", generation.text().find('\n') != std::string::npos},
                {"truncated", false},
                {"stop_type", stop_type(s)},
                {"stopping_word", s.stopping_word},
                {"timings", timings(s)}};
    }

private:
    static std::string data(const Json& body, const std::string& attention) {
        std::string text = json_text(body);
        if (!attention.empty()) {
            text.pop_back();
            text += ",\"attention\":" + attention + "}";
        }
        return "data: " + text + "\n\n";
    }

    const Service& service_;
    const std::string prompt_;
    int64_t n_ = 0;
    TokenTrace trace_;
    size_t shown_ = 0; // bytes of text
};

void complete(Service& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, openai, body.error());
    Result<ReadRequest> read = read_llama_completion(*body, {request.body, gone(request, service)}, service);
    if (!read) return refuse(response, openai, read.error());
    name_ignored(response, read->ignored);
    const bool with_tokens = read->return_tokens;
    auto format = std::make_shared<CompletionFormat>(service, text_of(service.session, read->generation.tokens));
    auto generation = service.queue.submit(std::move(read->generation));
    if (!generation) return refuse_busy(response, openai);
    if (read->stream) return stream_events(request, response, {std::move(generation)}, std::move(format));
    Collected all;
    if (!collect(request, *generation, service.session, all)) return;
    if (all.summary.finish_reason == "error")
        return refuse(response, openai, {all.summary.error_kind, all.summary.error});
    Json out = format->last(all.text, *generation);
    if (generation->request.n_probs)
        out["completion_probabilities"] = completion_probabilities(all.told, service.session);
    if (all.n_top_omitted > 0) out["top_logprobs_omitted"] = all.n_top_omitted;
    if (with_tokens) out["tokens"] = all.tokens;
    response.set_content(with_attention(out, all, *generation), "application/json");
}

// One context, hence one slot. What it holds is not told: it may be another client's.
Json slots(const Service& service) {
    return Json::array({{{"id", 0},
                         {"n_ctx", service.session.n_ctx()},
                         {"speculative", false},
                         {"is_processing", service.queue.counters().busy}}});
}

} // namespace

void add_llama_completion(httplib::Server& http, Service& service) {
    using httplib::Request, httplib::Response;
    for (const char* path : {"/completion", "/completions"}) {
        http.Post(path, [&](const Request& q, Response& a) { complete(service, q, a); });
    }
    http.Get("/slots", [&](const Request&, Response& a) { reply(a, slots(service)); });
}

} // namespace attnscope::server
