// Generations of the session's own over a WebSocket.
#include "server/generation/generation_fields.h"
#include "server/http/event_stream.h"
#include "server/http/service.h"
#include "server/http/websocket.h"

namespace attnscope::server {

namespace {

constexpr std::chrono::milliseconds patience{100};

// One event: its JSON frame, then its binary frames.
bool send_event(SocketReply& reply, Generation& generation, const GenerationEvent& event) {
    const Result<std::optional<AttentionAnswer>> answer = generation.answer(event);
    if (!answer) return reply.error(answer.error().message);
    const bool prompt = event.kind == GenerationEvent::Kind::prompt_row;
    Json body = {
        {"type", prompt ? "prompt" : "token"}, {"token_id", event.token}, {"request_id", generation.request.id}};
    if (!prompt) body["text"] = event.text;
    std::vector<SocketReply::Tensor> tensors;
    std::vector<uint8_t> bytes;
    std::string attention = "null";
    if (*answer) {
        const AnswerContext context = answer_context(generation, event);
        bytes = attention_bytes(**answer, context.format);
        attention = socket_attention(attention_head(**answer, context), bytes.size());
        tensors.push_back({"attention", bytes.data(), bytes.size()});
    }
    if (!event.hidden_state.empty()) {
        body["hidden_state"] = {{"shape", Json::array({event.hidden_state.size()})}, {"dtype", "float32"}};
        tensors.push_back({"hidden_state", event.hidden_state.data(), event.hidden_state.size() * sizeof(float)});
    }
    return reply.token(std::move(body), attention, tensors);
}

void send_end(SocketReply& reply, const Generation& generation, const std::string& text,
              const std::vector<std::string>& ignored) {
    const GenerationSummary summary = generation.summary();
    if (summary.finish_reason == "error") return reply.fail(500, summary.error);
    Json body = summary_json(generation);
    body["type"] = "done";
    body["request_id"] = generation.request.id;
    if (!text.empty()) body["text"] = text;
    if (!ignored.empty()) body["ignored_fields"] = ignored; // X-Ignored-Fields of the other routes
    reply.end(body);
}

void send_generation(Generation& generation, const std::vector<std::string>& ignored, const GivenUp& given_up,
                     SocketReply& reply) {
    while (true) {
        if (given_up()) generation.cancel();
        const std::optional<GenerationEvent> event = generation.next(patience);
        if (!event) continue;
        if (event->kind == GenerationEvent::Kind::done) return send_end(reply, generation, event->text, ignored);
        if (!send_event(reply, generation, *event)) return generation.abandon();
    }
}

void answer(Service& service, const Json& body, const GivenUp& given_up, SocketReply& reply) {
    Result<ReadRequest> read = read_kobold(body, service);
    if (!read) return reply.fail(400, read.error().message);
    drop_socket_fields(read->ignored);
    const std::shared_ptr<Generation> generation = service.queue.submit(std::move(read->generation));
    if (!generation) return reply.fail(503, "the server is busy: as many requests wait as may; try again later");
    send_generation(*generation, read->ignored, given_up, reply);
}

} // namespace

void add_socket(httplib::Server& http, Service& service) {
    add_websocket(http, *service.access, service.closing,
                  [&service](const Json& body, const std::string&, const httplib::Request&, const GivenUp& given_up,
                             SocketReply& reply) { answer(service, body, given_up, reply); });
}

} // namespace attnscope::server
