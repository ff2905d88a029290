// llama-server's own endpoints: health, properties, the tokeniser, the chat template, metrics.
#include "base/version.h"
#include "server/dialects/tokenizer.h"
#include "server/generation/generation_fields.h"
#include "server/http/reply.h"

#include <fmt/format.h>

namespace attnscope::server {

namespace {

constexpr Dialect openai = Dialect::openai;

void tokenize(Service& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, openai, body.error());
    RequestFields f(*body);
    const std::string content = f.text("content", "", max_text);
    const bool add_special = f.flag("add_special", false);
    const bool parse_special = f.flag("parse_special", true);
    const bool with_pieces = f.flag("with_pieces", false);
    if (Result<void> r = f.status(); !r) return refuse(response, openai, r.error());
    name_ignored(response, unread_fields(*body, f.known()));
    Result<std::vector<int32_t>> ids = tokenize_text(service, content, add_special, parse_special);
    if (!ids) return refuse(response, openai, ids.error());
    if (!with_pieces) return reply(response, {{"tokens", *ids}});
    Json tokens = Json::array();
    for (const int32_t id : *ids) tokens.push_back({{"id", id}, {"piece", piece_json(service.session.piece(id))}});
    reply(response, {{"tokens", tokens}});
}

void detokenize(Service& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, openai, body.error());
    RequestFields f(*body);
    const auto ids = f.token_ids("tokens", service.session.n_vocab(), size_t(1) << 22);
    if (Result<void> r = f.status(); !r) return refuse(response, openai, r.error());
    name_ignored(response, unread_fields(*body, f.known()));
    reply(response, {{"content", ids ? text_of(service.session, *ids) : ""}});
}

void apply_template(Service& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, openai, body.error());
    if (Result<void> r = check_messages(*body); !r) return refuse(response, openai, r.error());
    Result<std::string> prompt = service.session.chat_prompt_json(request.body, gone(request, service));
    if (!prompt) return refuse(response, openai, prompt.error());
    name_ignored(response,
                 unread_fields(*body, {"messages", "tools", "tool_choice", "chat_template_kwargs", "reasoning_effort",
                                       "add_generation_prompt", "continue_final_message"}));
    reply(response, {{"prompt", *prompt}});
}

void props(Service& service, httplib::Response& response) {
    const EngineCounters c = service.queue.counters();
    reply(response, {{"default_generation_settings", {{"n_ctx", service.session.n_ctx()}, {"params", Json::object()}}},
                     {"total_slots", 1},
                     {"model_alias", service.model.name},
                     {"model_path", service.model.name}, // no folders of this machine
                     {"chat_template", service.model.chat_template},
                     {"bos_token", service.session.piece(service.model.bos)},
                     {"eos_token", service.session.piece(service.model.eos)},
                     {"modalities", {{"vision", false}, {"audio", false}}},
                     {"is_sleeping", false},
                     {"is_processing", c.busy},
                     {"build_info", base::program()}});
}

// Prometheus's text format, version 0.0.4, under llama-server's names where it has them.
void metrics(Service& service, httplib::Response& response) {
    const EngineCounters c = service.queue.counters();
    std::string text;
    const auto add = [&](const char* type, const char* name, const char* help, double value) {
        text += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n{0} {3}\n", name, help, type, value);
    };
    add("counter", "llamacpp:prompt_tokens_total", "Prompt tokens read", static_cast<double>(c.n_prompt));
    add("counter", "llamacpp:prompt_seconds_total", "Seconds spent reading prompts", c.prompt_seconds);
    add("counter", "llamacpp:tokens_predicted_total", "Tokens generated", static_cast<double>(c.n_generated));
    add("counter", "llamacpp:tokens_predicted_seconds_total", "Seconds spent generating", c.generate_seconds);
    add("gauge", "llamacpp:requests_processing", "Generations that run", c.busy ? 1 : 0);
    add("gauge", "llamacpp:requests_deferred", "Generations that wait", static_cast<double>(c.n_waiting));
    add("counter", "attnscope:generations_total", "Generations that ended", static_cast<double>(c.n_generations));
    add("counter", "attnscope:prompt_tokens_reused_total", "Prompt tokens whose keys were there already",
        static_cast<double>(c.n_reused));
    add("counter", "attnscope:requests_refused_total", "Generations refused because too many waited",
        static_cast<double>(c.n_refused));
    response.set_content(text, "text/plain; version=0.0.4");
}

} // namespace

void add_llama_server(httplib::Server& http, Service& service) {
    using httplib::Request, httplib::Response;
    // The server listens once the model is loaded: whoever gets an answer gets this one.
    for (const char* path : {"/health", "/v1/health"}) {
        http.Get(path, [](const Request&, Response& a) { reply(a, {{"status", "ok"}}); });
    }
    http.Get("/props", [&](const Request&, Response& a) { props(service, a); });
    http.Get("/metrics", [&](const Request&, Response& a) { metrics(service, a); });
    http.Post("/tokenize", [&](const Request& q, Response& a) { tokenize(service, q, a); });
    http.Post("/detokenize", [&](const Request& q, Response& a) { detokenize(service, q, a); });
    http.Post("/apply-template", [&](const Request& q, Response& a) { apply_template(service, q, a); });
}

} // namespace attnscope::server
