// KoboldCPP's API, for KoboldAI Lite, SillyTavern and their kin; Halo Weave shares the stream.
#include "server/dialects/halo_weave.h"
#include "server/dialects/kobold_fields.h"
#include "server/dialects/kobold_words.h"
#include "server/dialects/tokenizer.h"
#include "server/generation/generation_fields.h"
#include "server/http/event_stream.h"
#include "server/http/reply.h"

#include <algorithm>

namespace attnscope::server {

namespace {

constexpr Dialect kobold = Dialect::kobold;

class KoboldFormat : public EventFormat {
public:
    std::string token(const GenerationEvent& event, const std::string& attention) override {
        return kobold_event({{"token", event.text}, {"finish_reason", nullptr}},
                            event.frame() ? member(attention) : "");
    }
    std::string prompt_row(const GenerationEvent& event, const std::string& attention) override {
        return kobold_event({{"token", ""}, {"finish_reason", nullptr}, {"prompt_token", event.token}},
                            member(attention));
    }
    std::string done(const std::string& text, const Generation& generation) override {
        const GenerationSummary s = generation.summary();
        Json body = {{"token", text}, {"finish_reason", kobold_reason(s.finish_reason)}};
        if (generation.request.attention || generation.request.record) body["summary"] = summary_json(generation);
        return kobold_event(body, "");
    }
    std::string failed(const std::string& message) override {
        return "event: error\ndata: " + json_text(error_body(kobold, 500, message)) + "\n\n";
    }

private:
    static std::string member(const std::string& attention) { return "\"attention\":" + attention; }
};

// The request of a generation, submitted; null when it was refused.
std::shared_ptr<Generation> submit(Service& service, const httplib::Request& request, httplib::Response& response,
                                   bool* halo_weave) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, kobold, body.error()), nullptr;
    Result<ReadRequest> read = read_kobold(*body, service);
    if (!read) return refuse(response, kobold, read.error()), nullptr;
    if (halo_weave) *halo_weave = read->halo_weave;
    name_ignored(response, read->ignored);
    auto generation = service.queue.submit(std::move(read->generation));
    if (!generation) refuse_busy(response, kobold);
    return generation;
}

void generate(Service& service, const httplib::Request& request, httplib::Response& response) {
    const auto generation = submit(service, request, response, nullptr);
    if (!generation) return;
    Collected all;
    if (!collect(request, *generation, all)) return;
    if (all.summary.finish_reason == "error")
        return refuse(response, kobold, {all.summary.error_kind, all.summary.error});
    const Json result = {{"text", all.text},
                         {"finish_reason", kobold_reason(all.summary.finish_reason)},
                         {"prompt_tokens", all.summary.n_prompt},
                         {"completion_tokens", all.summary.n_generated}};
    response.set_content(with_attention({{"results", Json::array({result})}}, all, *generation), "application/json");
}

void stream(Service& service, const httplib::Request& request, httplib::Response& response) {
    bool halo_weave = false;
    auto generation = submit(service, request, response, &halo_weave);
    if (!generation) return;
    std::shared_ptr<EventFormat> format;
    if (halo_weave) {
        format = std::make_shared<HaloWeaveFormat>(generation->request.id);
    } else {
        format = std::make_shared<KoboldFormat>();
    }
    stream_events(request, response, std::move(generation), std::move(format));
}

void check(Service& service, const httplib::Request& request, httplib::Response& response) {
    const std::string key = kobold_key(request.body);
    const auto generation = service.queue.find(key);
    // Once ended, only whoever knows the name may look at it again.
    const bool visible = generation && (!key.empty() || (!generation->finished() && generation->request.id.empty()));
    reply(response, {{"results", Json::array({{{"text", visible ? generation->text() : ""}}})}});
}

void abort_generation(Service& service, const httplib::Request& request, httplib::Response& response) {
    const bool ended = service.queue.cancel(kobold_key(request.body));
    reply(response, {{"success", ended ? "true" : "false"}, {"done", "true"}}); // strings, as KoboldCPP sends
}

void token_count(Service& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, kobold, body.error());
    RequestFields f(*body);
    const std::string prompt = f.text("prompt", "", max_text);
    const bool special = f.flag("special", true);
    if (Result<void> r = f.status(); !r) return refuse(response, kobold, r.error());
    name_ignored(response, unread_fields(*body, f.known()));
    Result<std::vector<int32_t>> ids = tokenize_text(service, prompt, special, true);
    if (!ids) return refuse(response, kobold, ids.error());
    reply(response, {{"value", ids->size()}, {"ids", *ids}});
}

void detokenize(Service& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, kobold, body.error());
    RequestFields f(*body);
    const auto ids = f.token_ids("ids", service.session.n_vocab(), size_t(1) << 22);
    if (Result<void> r = f.status(); !r) return refuse(response, kobold, r.error());
    name_ignored(response, unread_fields(*body, f.known()));
    reply(response, {{"result", ids ? text_of(service.session, *ids) : ""}, {"success", true}});
}

void perf(Service& service, httplib::Response& response) {
    const EngineCounters c = service.queue.counters();
    KoboldPerf p;
    p.prompt_seconds = c.last.prompt_seconds;
    p.generate_seconds = c.last.generate_seconds;
    p.n_prompt = c.last.n_prompt;
    p.n_read = c.last.n_prompt - c.last.n_reused;
    p.n_generated = c.last.n_generated;
    p.seed = c.last.seed;
    p.stop_reason = c.last.finish_reason == "length" ? 0
                    : c.last.stop_reason == "eos"    ? 1
                    : c.last.finish_reason.empty()   ? -1
                                                     : 2;
    p.n_generations = c.n_generations;
    p.n_waiting = static_cast<int64_t>(c.n_waiting);
    p.busy = c.busy;
    p.up_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - service.started).count();
    reply(response, kobold_perf(p));
}

} // namespace

void add_kobold(httplib::Server& http, Service& service) {
    using httplib::Request, httplib::Response;
    http.Post("/api/v1/generate", [&](const Request& q, Response& a) { generate(service, q, a); });
    http.Post("/api/extra/generate/stream", [&](const Request& q, Response& a) { stream(service, q, a); });
    http.Get("/api/extra/generate/check", [&](const Request& q, Response& a) { check(service, q, a); });
    http.Post("/api/extra/generate/check", [&](const Request& q, Response& a) { check(service, q, a); });
    http.Post("/api/extra/abort", [&](const Request& q, Response& a) { abort_generation(service, q, a); });
    http.Post("/api/extra/tokencount", [&](const Request& q, Response& a) { token_count(service, q, a); });
    http.Post("/api/extra/detokenize", [&](const Request& q, Response& a) { detokenize(service, q, a); });
    http.Get("/api/extra/perf", [&](const Request&, Response& a) { perf(service, a); });
    http.Get("/api/v1/info/version", [](const Request&, Response& a) { reply(a, {{"result", kobold_api_version}}); });
    http.Get("/api/extra/version",
             [&](const Request&, Response& a) { reply(a, kobold_version(!service.options.api_keys.empty())); });
    for (const char* path : {"/api/extra/true_max_context_length", "/api/v1/config/max_context_length"}) {
        http.Get(path, [&](const Request&, Response& a) { reply(a, {{"value", service.session.n_ctx()}}); });
    }
    http.Get("/api/v1/config/max_length", [&](const Request&, Response& a) {
        reply(a, {{"value", std::min(service.session.n_ctx() / 2, 512)}});
    });
}

} // namespace attnscope::server
