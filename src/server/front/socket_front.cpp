// The WebSocket of Halo Weave's stream before llama-server.
#include "server/front/kobold_answer.h"
#include "server/front/kobold_events.h"
#include "server/front/kobold_front.h"
#include "server/http/websocket.h"

#include <utility>

namespace attnscope::server {

namespace {

bool send_token(SocketReply& reply, const StreamToken& token, const KoboldRequest& request) {
    Json body = {{"type", token.prompt ? "prompt" : "token"},
                 {"token_id", token.token.value_or(-1)},
                 {"request_id", request.fields.id}};
    if (!token.prompt) body["text"] = token.text;
    if (!token.row.answer) return reply.token(std::move(body), token.row.json(), {}); // nothing, or why not
    const TokenRow& row = token.row;
    const std::vector<uint8_t> bytes = attention_bytes(*row.answer, row.context.format);
    const std::string attention = socket_attention(attention_head(*row.answer, row.context), bytes.size());
    return reply.token(std::move(body), attention, {{"attention", bytes.data(), bytes.size()}});
}

void send_end(SocketReply& reply, const StreamEnd& end, const KoboldRequest& request) {
    Json body = Json::parse(with_members(json_text(done_json(end, request.fields.id)), end.members));
    if (!request.ignored.empty()) body["ignored_fields"] = request.ignored; // X-Ignored-Fields of the other routes
    reply.end(body);
}

void send_answer(KoboldAnswer& answer, const GoneAway& given_up, SocketReply& reply) {
    while (true) {
        if (given_up()) answer.cancel();
        const std::optional<StreamPart> part = answer.next();
        if (!part) continue; // given up: the next part is the end
        if (const auto* failure = std::get_if<StreamFailure>(&*part)) return reply.fail(500, failure->why);
        if (const auto* end = std::get_if<StreamEnd>(&*part)) return send_end(reply, *end, answer.request());
        if (!send_token(reply, std::get<StreamToken>(*part), answer.request())) return;
    }
}

void answer(FrontService& service, const Json& body, const std::string& message, const httplib::Request& request,
            const GoneAway& given_up, SocketReply& reply) {
    const auto failed = [&](const Error& error) {
        if (given_up()) return reply.end(socket_nothing(body));
        const bool not_there = error.kind == ErrorKind::not_found || error.kind == ErrorKind::io;
        const bool theirs = error.kind == ErrorKind::engine;
        reply.fail(not_there ? 503 : theirs ? 500 : error.kind == ErrorKind::unsupported ? 501 : 400, error.message);
    };
    const httplib::Headers headers = headers_for_questions(request);
    if (KoboldProgram(service.options.to, headers, given_up).is_there())
        return reply.fail(
            501, "before KoboldCPP there is no WebSocket: attention is answered at /api/extra/generate/stream");
    const LlamaProgram program(service.options.to, headers, given_up);
    const Result<LlamaProps> props = program.props();
    if (!props) return failed(props.error());
    Result<KoboldRequest> read = read_kobold_request(service, program, *props, body, message);
    if (!read) return failed(read.error());
    read->drop_logprobs(); // its frames have no place for them
    drop_socket_fields(read->ignored);
    Result<std::unique_ptr<KoboldAnswer>> started =
        KoboldAnswer::start(service, program, request, std::move(*read), given_up);
    if (!started) return failed(started.error());
    send_answer(**started, given_up, reply);
}

} // namespace

void add_socket_front(httplib::Server& http, FrontService& service) {
    add_websocket(http, *service.access, service.closing,
                  [&service](const Json& body, const std::string& message, const httplib::Request& request,
                             const GoneAway& given_up,
                             SocketReply& reply) { answer(service, body, message, request, given_up, reply); });
}

} // namespace attnscope::server
