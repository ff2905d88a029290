// Of llama-server's routes those that our own page and scripts ask, whichever process generates. The rest, and OpenAI's, are the
// engine's own server's: whoever asks for them here is told so.
#include "server/generation/generation_fields.h"
#include "server/http/reply.h"

#include <fmt/format.h>

namespace attnscope::server {

namespace {

constexpr Dialect openai = Dialect::openai;
constexpr const char* of_the_engines_server =
    R"(/(v1(/.*)?|completions?|chat/completions|models(/.*)?|responses|infill|embeddings?|rerank(ing)?|props|slots(/.*)?|metrics|tokenize|detokenize|lora-adapters))";

void apply_template(Service& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, openai, body.error());
    Result<std::string> prompt = service.session.chat_prompt_json(request.body, gone(request, service));
    if (!prompt) return refuse(response, openai, prompt.error());
    name_ignored(response,
                 unread_fields(*body, {"messages", "tools", "tool_choice", "chat_template_kwargs", "reasoning_effort",
                                       "add_generation_prompt", "continue_final_message"}));
    reply(response, {{"prompt", *prompt}});
}

void not_here(const httplib::Request& request, httplib::Response& response) {
    refuse(response, openai, 404,
           fmt::format("{} is not answered with --in-process: attnscope serve without it has the routes of OpenAI and "
                       "llama-server; here are those of KoboldCPP and Halo Weave, under /api/",
                       printable(request.path, 128)));
}

} // namespace

void add_llama_server(httplib::Server& http, Service& service) {
    using httplib::Request, httplib::Response;
    // The server listens once the model is loaded: whoever gets an answer gets this one.
    http.Get("/health", [](const Request&, Response& a) { reply(a, {{"status", "ok"}}); });
    http.Post("/apply-template", [&](const Request& q, Response& a) { apply_template(service, q, a); });
    http.Get(of_the_engines_server, not_here);
    http.Post(of_the_engines_server, not_here);
    http.Put(of_the_engines_server, not_here);
    http.Patch(of_the_engines_server, not_here);
    http.Delete(of_the_engines_server, not_here);
}

} // namespace attnscope::server
