// OpenAI's API: models, completions and chat completions, streaming and not.
#include "server/dialects/openai_format.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <limits>

namespace attnscope::server {

namespace {

constexpr Dialect openai = Dialect::openai;

using Generations = std::vector<std::shared_ptr<Generation>>;

void abandon(const Generations& generations) {
    for (const auto& g : generations) g->abandon();
}

// The request so many times, each with a seed of its own; none where not all can wait.
Generations submit(Service& service, GenerationRequest request, int32_t n) {
    constexpr uint32_t any = std::numeric_limits<uint32_t>::max();
    const uint32_t seed = request.options.sampling.seed;
    Generations out;
    for (int32_t i = 0; i < n; ++i) {
        if (seed != any) request.options.sampling.seed = (seed + static_cast<uint32_t>(i)) % any;
        out.push_back(service.queue.submit(i + 1 < n ? request : std::move(request)));
        if (out.back()) continue;
        out.pop_back();
        abandon(out);
        return {};
    }
    return out;
}

Json choice_of(const OpenAiAnswer& answer, const Collected& one, size_t index) {
    Json choice = {{"index", index},
                   {"finish_reason", openai_reason(one.summary.finish_reason)},
                   {"logprobs", answer.logprobs_of(one.told)}};
    if (answer.chat) {
        choice["message"] = {{"role", "assistant"}, {"content", one.text}};
    } else {
        choice["text"] = answer.echo + one.text;
    }
    if (one.n_top_omitted > 0) choice["top_logprobs_omitted"] = one.n_top_omitted;
    return choice;
}

void complete(Service& service, const httplib::Request& request, httplib::Response& response, bool chat) {
    static std::atomic<uint64_t> numbers{0};
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, openai, body.error());
    const Asked asked{request.body, gone(request, service)};
    Result<ReadRequest> read = chat ? read_chat(*body, asked, service) : read_completion(*body, asked, service);
    if (!read) return refuse(response, openai, read.error());
    name_ignored(response, read->ignored);
    const std::time_t now = std::time(nullptr);
    const OpenAiAnswer answer{
        service.session,    chat,        fmt::format("{}-{}-{}", chat ? "chatcmpl" : "cmpl", now, ++numbers),
        service.model.name, now,         read->n,
        read->logprobs,     read->usage, read->prompt};
    Generations generations = submit(service, std::move(read->generation), read->best_of);
    if (generations.empty()) return refuse_busy(response, openai);
    if (read->stream)
        return stream_events(request, response, std::move(generations), std::make_shared<OpenAiFormat>(answer));
    std::vector<Collected> all(generations.size());
    std::vector<GenerationSummary> summaries;
    for (size_t i = 0; i < all.size(); ++i) {
        if (!collect(request, *generations[i], service.session, all[i])) return abandon(generations);
        summaries.push_back(all[i].summary);
        if (all[i].summary.finish_reason != "error") continue;
        abandon(generations);
        return refuse(response, openai, {all[i].summary.error_kind, all[i].summary.error});
    }
    if (all.size() > size_t(read->n)) {
        std::stable_sort(all.begin(), all.end(), [](const Collected& a, const Collected& b) {
            return mean_log_probability(a.told) > mean_log_probability(b.told);
        });
        all.resize(size_t(read->n));
    }
    Json choices = Json::array();
    for (size_t i = 0; i < all.size(); ++i) choices.push_back(choice_of(answer, all[i], i));
    Json out = answer.object(chat ? "chat.completion" : "text_completion", std::move(choices));
    out["usage"] = openai_usage(summaries);
    response.set_content(with_attention(out, all.front(), *generations.front()), "application/json");
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
