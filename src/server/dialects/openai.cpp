// OpenAI's API: models, completions and chat completions, streaming and not.
#include "server/generation/generation_fields.h"
#include "server/http/event_stream.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <atomic>
#include <ctime>

namespace attnscope::server {

namespace {

constexpr Dialect openai = Dialect::openai;

const char* reason(const std::string& finish_reason) {
    return finish_reason == "length" || finish_reason == "context" ? "length" : "stop";
}

Json usage(const GenerationSummary& s) {
    return {{"prompt_tokens", s.n_prompt},
            {"completion_tokens", s.n_generated},
            {"total_tokens", s.n_prompt + s.n_generated},
            {"prompt_tokens_details", {{"cached_tokens", s.n_reused}}}};
}

// The envelope that all objects of one answer share.
struct Envelope {
    bool chat = false;
    std::string id, model;
    std::time_t created = 0;

    Json object(const char* completion_name, Json choices) const {
        return {{"id", id},
                {"object", completion_name},
                {"created", created},
                {"model", model},
                {"choices", std::move(choices)}};
    }
    Json chunk(Json choices) const {
        return object(chat ? "chat.completion.chunk" : "text_completion", std::move(choices));
    }
};

class OpenAiFormat : public EventFormat {
public:
    OpenAiFormat(Envelope envelope, bool with_usage) : envelope_(std::move(envelope)), usage_(with_usage) {}

    std::string token(const GenerationEvent& event, const std::string& attention) override {
        // A chunk without text and attention says nothing: part of a character, or of what may be a stop sequence.
        if (event.text.empty() && !event.frame()) return {};
        std::string text = json_text(envelope_.chunk(Json::array({choice(event.text, nullptr)})));
        if (event.frame()) {
            text.pop_back();
            text += ",\"attention\":" + attention + "}";
        }
        return "data: " + text + "\n\n";
    }
    std::string prompt_row(const GenerationEvent& event, const std::string& attention) override {
        Json body = envelope_.chunk(Json::array());
        body["prompt_token"] = event.token;
        std::string text = json_text(body);
        text.pop_back();
        return "data: " + text + ",\"attention\":" + attention + "}\n\n";
    }
    std::string done(const std::string& text, const Generation& generation) override {
        const GenerationSummary s = generation.summary();
        std::string out;
        if (!text.empty()) out += "data: " + json_text(envelope_.chunk(Json::array({choice(text, nullptr)}))) + "\n\n";
        Json last = envelope_.chunk(Json::array({choice("", reason(s.finish_reason))}));
        if (envelope_.chat) last["choices"][0]["delta"] = Json::object();
        if (generation.request.attention || generation.request.record) last["summary"] = summary_json(generation);
        out += "data: " + json_text(last) + "\n\n";
        if (usage_) {
            Json body = envelope_.chunk(Json::array());
            body["usage"] = usage(s);
            out += "data: " + json_text(body) + "\n\n";
        }
        return out + "data: [DONE]\n\n";
    }
    std::string failed(const std::string& message) override {
        return "data: " + json_text(error_body(openai, 500, message)) + "\n\ndata: [DONE]\n\n";
    }

private:
    Json choice(const std::string& text, const char* finish_reason) {
        Json out = {{"index", 0}, {"finish_reason", nullptr}, {"logprobs", nullptr}};
        if (finish_reason) out["finish_reason"] = finish_reason;
        if (!envelope_.chat) {
            out["text"] = text;
            return out;
        }
        out["delta"] = {{"content", text}};
        if (first_) out["delta"]["role"] = "assistant";
        first_ = false;
        return out;
    }

    Envelope envelope_;
    bool usage_;
    bool first_ = true;
};

void complete(Service& service, const httplib::Request& request, httplib::Response& response, bool chat) {
    static std::atomic<uint64_t> numbers{0};
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, openai, body.error());
    Result<ReadRequest> read = chat ? read_chat(*body, request.body, service) : read_completion(*body, service);
    if (!read) return refuse(response, openai, read.error());
    name_ignored(response, read->ignored);
    Envelope envelope;
    envelope.chat = chat;
    envelope.created = std::time(nullptr);
    envelope.id = fmt::format("{}-{}-{}", chat ? "chatcmpl" : "cmpl", envelope.created, ++numbers);
    envelope.model = service.model.name;
    auto generation = service.queue.submit(std::move(read->generation));
    if (!generation) return refuse_busy(response, openai);
    if (read->stream) {
        return stream_events(request, response, std::move(generation),
                             std::make_shared<OpenAiFormat>(envelope, read->usage));
    }
    Collected all;
    if (!collect(request, *generation, all)) return;
    if (all.summary.finish_reason == "error") return refuse(response, openai, 500, all.summary.error);
    Json choice = {{"index", 0}, {"finish_reason", reason(all.summary.finish_reason)}, {"logprobs", nullptr}};
    if (chat) {
        choice["message"] = {{"role", "assistant"}, {"content", all.text}};
    } else {
        choice["text"] = all.text;
    }
    Json out = envelope.object(chat ? "chat.completion" : "text_completion", Json::array({choice}));
    out["usage"] = usage(all.summary);
    response.set_content(with_attention(out, all, *generation), "application/json");
}

} // namespace

void add_openai(httplib::Server& http, Service& service) {
    using httplib::Request, httplib::Response;
    http.Post("/v1/completions", [&](const Request& q, Response& a) { complete(service, q, a, false); });
    http.Post("/v1/chat/completions", [&](const Request& q, Response& a) { complete(service, q, a, true); });
    const auto model = [&service] {
        return Json{{"id", service.model.name},
                    {"object", "model"},
                    {"created", 0},
                    {"owned_by", "attnscope"},
                    {"meta",
                     {{"n_vocab", service.session.n_vocab()},
                      {"n_ctx_train", service.model.n_ctx_train},
                      {"n_embd", service.model.n_embd}}}};
    };
    http.Get("/v1/models", [model](const Request&, Response& a) {
        reply(a, {{"object", "list"}, {"data", Json::array({model()})}});
    });
    http.Get("/v1/models/(.+)", [model, &service](const Request& q, Response& a) {
        if (q.matches[1].str() == service.model.name) return reply(a, model());
        refuse(a, openai, 404, "there is no such model here; this server has \"" + service.model.name + "\"");
    });
}

} // namespace attnscope::server
