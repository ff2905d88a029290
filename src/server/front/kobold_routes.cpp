// KoboldCPP's own routes before llama-server, which knows none of them. Before KoboldCPP everything passes, but for Halo Weave's stream;
// before other programs everything does.
#include "server/front/kobold_answer.h"
#include "server/front/kobold_events.h"
#include "server/front/kobold_front.h"
#include "server/front/prompt_bound.h"
#include "server/http/reply.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

constexpr Dialect kobold = Dialect::kobold;
constexpr size_t most_tokens = size_t(1) << 22;

void failed(const httplib::Request& request, httplib::Response& response, const Error& error) {
    if (error.kind == ErrorKind::not_found || error.kind == ErrorKind::io)
        return refuse_unreached(response, request, error);
    refuse(response, kobold, error);
}

// One request before llama-server.
struct Call {
    FrontService& service;
    const httplib::Request& request;
    httplib::Response& response;
    const LlamaProgram& program;
    const LlamaProps& props;
};
using Route = void (*)(const Call& call);

// Does a body ask for attention? What cannot be read does not: the program says what is wrong with it.
bool asks_for_attention(const std::string& text) {
    if (!names_attention(text)) return false;
    const Result<Json> body = parse_body(text);
    if (!body) return false;
    RequestFields f(*body);
    const Result<AttentionWants> wants = read_attention_wants(f);
    return !wants || wants->attention || f.flag("output_hidden_states", false) ||
           !f.status(); // a wrong value asks, too
}

void before_kobold(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    if (!asks_for_attention(request.body)) return pass_on(service, request, response);
    if (request.path == "/api/extra/generate/stream") return stream_from_kobold(service, request, response);
    refuse(response, kobold, 501, "before KoboldCPP attention is answered at /api/extra/generate/stream");
}

// What answers behind us is asked each time: a program at a port may be another one tomorrow.
void before_llama(FrontService& service, const httplib::Request& request, httplib::Response& response, Route route) {
    if (is_compressed(request)) return refuse_compressed(request, response);
    if (kobold_of(service, request).is_there()) return before_kobold(service, request, response);
    const LlamaProgram program(service.options.to, headers_for_questions(request), gone_away(request, service));
    const Result<LlamaProps> props = program.props();
    if (props) return route({service, request, response, program, *props});
    const ErrorKind kind = props.error().kind;
    if (kind == ErrorKind::not_found) return failed(request, response, props.error());          // not yet
    const bool another = kind == ErrorKind::unsupported || kind == ErrorKind::invalid_argument; // it answered otherwise
    if (another && asks_for_attention(request.body)) {
        return refuse(response, kobold, 501,
                      "attention is answered before llama-server and KoboldCPP; of the program behind this server: " +
                          props.error().message);
    }
    pass_on(service, request, response); // the program says what it is instead
}

std::shared_ptr<KoboldAnswer> start(const Call& call, bool streams) {
    if (Result<void> r = check_n_ids(call.program, call.request.body, "input_ids", call.props.n_ctx); !r)
        return refuse(call.response, kobold, r.error()), nullptr;
    Result<Json> body = parse_body(call.request.body);
    if (!body) return refuse(call.response, kobold, body.error()), nullptr;
    Result<KoboldRequest> read = read_kobold_request(call.service, call.program, call.props, *body, call.request.body);
    if (!read) return failed(call.request, call.response, read.error()), nullptr;
    if (streams)
        read->drop_logprobs();
    else
        read->wants.flow = Flow::lossless; // nobody reads while it comes
    const std::vector<std::string> ignored = read->ignored;
    Result<std::unique_ptr<KoboldAnswer>> answer = KoboldAnswer::start(
        call.service, call.program, call.request, std::move(*read), gone_away(call.request, call.service));
    if (!answer) return failed(call.request, call.response, answer.error()), nullptr;
    name_ignored(call.response, ignored);
    return std::move(*answer);
}

void generate(const Call& call) {
    const std::shared_ptr<KoboldAnswer> answer = start(call, false);
    if (!answer) return;
    KoboldWhole whole(answer->request());
    while (const std::optional<StreamPart> part = answer->next()) {
        if (const auto* token = std::get_if<StreamToken>(&*part)) whole.add(*token);
        if (const auto* failure = std::get_if<StreamFailure>(&*part))
            return refuse(call.response, kobold, 500, failure->why);
        if (const auto* end = std::get_if<StreamEnd>(&*part))
            call.response.set_content(whole.text(*end), "application/json");
    }
}

void send_stream(const Call& call, std::shared_ptr<KoboldAnswer> answer) {
    const auto send = [answer = std::move(answer)](size_t, httplib::DataSink& sink) {
        const std::optional<StreamPart> part = answer->next();
        if (!part) return false;
        const KoboldRequest& request = answer->request();
        const std::string text =
            request.halo_weave ? halo_weave_text(*part, request.fields.id) : kobold_text(*part, request);
        if (!sink.write(text.data(), text.size())) return false;
        if (!std::holds_alternative<StreamToken>(*part)) sink.done();
        return true;
    };
    call.response.set_header("Cache-Control", "no-cache");
    call.response.set_header("X-Accel-Buffering", "no"); // proxies pass events on as they come
    reply_in_pieces(call.request, call.response, "text/event-stream", send);
}

void stream(const Call& call) {
    if (std::shared_ptr<KoboldAnswer> answer = start(call, true)) send_stream(call, std::move(answer));
}

void check(const Call& call) {
    const std::shared_ptr<Answers::One> one = call.service.answers.find(kobold_key(call.request.body));
    reply(call.response, {{"results", Json::array({{{"text", one ? one->text() : ""}}})}});
}

void abort_answer(const Call& call) {
    const bool ended = call.service.answers.cancel(kobold_key(call.request.body));
    reply(call.response, {{"success", ended ? "true" : "false"}, {"done", "true"}}); // strings, as KoboldCPP sends
}

void token_count(const Call& call) {
    Result<Json> body = parse_body(call.request.body);
    if (!body) return refuse(call.response, kobold, body.error());
    RequestFields f(*body);
    const std::string prompt = f.text("prompt", "", call.service.options.server.max_body);
    const bool special = f.flag("special", true);
    if (Result<void> r = f.status(); !r) return refuse(call.response, kobold, r.error());
    name_ignored(call.response, unread_fields(*body, f.known()));
    Result<std::vector<int32_t>> ids = call.program.tokens_of(prompt, special);
    if (!ids) return failed(call.request, call.response, ids.error());
    reply(call.response, {{"value", ids->size()}, {"ids", *ids}});
}

void detokenize(const Call& call) {
    Result<Json> body = parse_body(call.request.body);
    if (!body) return refuse(call.response, kobold, body.error());
    RequestFields f(*body);
    const auto ids = f.token_ids("ids", INT32_MAX, most_tokens);
    if (Result<void> r = f.status(); !r) return refuse(call.response, kobold, r.error());
    name_ignored(call.response, unread_fields(*body, f.known()));
    Result<std::string> text = ids && !ids->empty() ? call.program.text(*ids) : Result<std::string>(std::string());
    if (!text) return failed(call.request, call.response, text.error());
    reply(call.response, {{"result", *text}, {"success", true}});
}

void perf(const Call& call) {
    KoboldPerf told = call.service.answers.perf();
    told.n_waiting = static_cast<int64_t>(call.service.slots.n_waiting());
    if (const Result<std::vector<bool>> slots = call.program.slots())
        told.busy = told.busy || std::find(slots->begin(), slots->end(), true) != slots->end();
    reply(call.response, kobold_perf(told));
}

void api_version(const Call& call) {
    reply(call.response, {{"result", kobold_api_version}});
}

void version(const Call& call) {
    reply(call.response, kobold_version(!call.service.options.server.api_keys.empty()));
}

void max_context(const Call& call) {
    reply(call.response, {{"value", call.props.n_ctx}});
}

void max_length(const Call& call) {
    reply(call.response, {{"value", std::min(call.props.n_ctx / 2, 512)}});
}

} // namespace

void add_kobold_front(httplib::Server& http, FrontService& service) {
    const auto handler = [&service](Route route) {
        return
            [&service, route](const httplib::Request& q, httplib::Response& a) { before_llama(service, q, a, route); };
    };
    http.Post("/api/v1/generate", handler(generate));
    http.Post("/api/extra/generate/stream", handler(stream));
    http.Get("/api/extra/generate/check", handler(check));
    http.Post("/api/extra/generate/check", handler(check));
    http.Post("/api/extra/abort", handler(abort_answer));
    http.Post("/api/extra/tokencount", handler(token_count));
    http.Post("/api/extra/detokenize", handler(detokenize));
    http.Get("/api/extra/perf", handler(perf));
    http.Get("/api/v1/info/version", handler(api_version));
    http.Get("/api/extra/version", handler(version));
    http.Get("/api/extra/true_max_context_length", handler(max_context));
    http.Get("/api/v1/config/max_context_length", handler(max_context));
    http.Get("/api/v1/config/max_length", handler(max_length));
}

} // namespace attnscope::server
