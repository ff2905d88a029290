// The binary stream: the client sends its request as one JSON text frame; for each token the server sends a JSON text
// frame, and behind it the tensors that the frame lists under "binary", each a binary frame of its own. Another request
// may follow on the same connection.
#include "base/mutex.h"
#include "server/dialects/halo_weave.h"
#include "server/generation/generation_fields.h"
#include "server/http/access.h"
#include "server/http/event_stream.h"
#include "server/http/reply.h"

#include <atomic>
#include <thread>

namespace attnscope::server {

namespace {

constexpr std::chrono::milliseconds patience{100};

bool send_bytes(httplib::ws::WebSocket& socket, const void* data, size_t size) {
    return socket.send(static_cast<const char*>(data), size);
}

bool send_error(httplib::ws::WebSocket& socket, int status, const std::string& message) {
    Json body = error_body(Dialect::kobold, status, message);
    body["type"] = "error";
    body["status"] = status;
    return socket.send(json_text(body));
}

// One event: its JSON frame, then its binary frames.
bool send_event(httplib::ws::WebSocket& socket, Generation& generation, const GenerationEvent& event) {
    const Result<std::optional<AttentionAnswer>> answer = generation.answer(event);
    if (!answer) return send_error(socket, 500, answer.error().message);
    const bool prompt = event.kind == GenerationEvent::Kind::prompt_row;
    Json body = {
        {"type", prompt ? "prompt" : "token"}, {"token_id", event.token}, {"request_id", generation.request.id}};
    if (!prompt) body["text"] = event.text;
    Json& binary = body["binary"] = Json::array();
    std::vector<uint8_t> bytes;
    std::string attention = "null";
    if (*answer) {
        const AnswerContext context = answer_context(generation, event);
        bytes = attention_bytes(**answer, context.format);
        attention = attention_head(**answer, context);
        attention += ",\"bytes\":" + std::to_string(bytes.size()) + "}";
        binary.push_back("attention");
    }
    if (!event.hidden_state.empty()) {
        body["hidden_state"] = {{"shape", Json::array({event.hidden_state.size()})}, {"dtype", "float32"}};
        binary.push_back("hidden_state");
    }
    std::string text = json_text(body);
    text.pop_back();
    text += ",\"attention\":" + attention + "}";
    if (!socket.send(text)) return false;
    if (*answer && !send_bytes(socket, bytes.data(), bytes.size())) return false;
    return event.hidden_state.empty() ||
           send_bytes(socket, event.hidden_state.data(), event.hidden_state.size() * sizeof(float));
}

// `ending` is set before the last frame goes out: whoever reads that frame may ask for the next generation at once.
void send_generation(httplib::ws::WebSocket& socket, Generation& generation, const std::vector<std::string>& ignored,
                     std::atomic<bool>& ending) {
    while (true) {
        const std::optional<GenerationEvent> event = generation.next(patience);
        if (!event) {
            if (!socket.is_open()) return generation.abandon();
            continue;
        }
        if (event->kind != GenerationEvent::Kind::done) {
            if (!send_event(socket, generation, *event)) return generation.abandon();
            continue;
        }
        ending = true;
        const GenerationSummary summary = generation.summary();
        if (summary.finish_reason == "error") {
            send_error(socket, 500, summary.error);
            return;
        }
        Json body = summary_json(generation);
        body["type"] = "done";
        body["request_id"] = generation.request.id;
        if (!event->text.empty()) body["text"] = event->text;
        if (!ignored.empty()) body["ignored_fields"] = ignored; // X-Ignored-Fields of the other routes
        socket.send(json_text(body));
        return;
    }
}

// Reads what the client says, on the connection's thread, while another sends a generation.
class Conversation {
public:
    Conversation(Service& service, httplib::ws::WebSocket& socket, bool known)
        : service_(service), socket_(socket), known_(known) {}
    ~Conversation() { end(); }
    Conversation(const Conversation&) = delete;
    Conversation& operator=(const Conversation&) = delete;

    // False: the connection ends.
    bool hear(const std::string& message) {
        Result<Json> body = parse_body(message);
        if (!body) return send_error(socket_, 400, body.error().message);
        RequestFields f(*body);
        if (!known_) {
            known_ = service_.access->key_fits(f.text("api_key", "", 4096));
            if (!known_) {
                send_error(socket_, 401, "an API key is needed: send it as \"api_key\" in the first message");
                return false;
            }
        }
        const std::string type = f.text("type", "generate", 64);
        if (type == "abort") {
            give_up();
            return true;
        }
        if (sending_ && !sent_)
            return send_error(socket_, 400, "a generation is running on this connection; abort it first");
        end();
        given_up_ = sent_ = false;
        sending_ = true;
        sender_ = std::thread([this, request = std::move(*body), message] {
            answer(request, message);
            sent_ = true;
        });
        return true;
    }

private:
    // On the sender's thread: reading a request may take seconds (a grammar is tried out), in which its client may say "abort".
    void answer(const Json& body, const std::string& message) {
        const GivenUp gone = [this] {
            return given_up_ || service_.closing || !socket_.is_open() || socket_.request().is_connection_closed();
        };
        Result<ReadRequest> read = read_kobold(body, {message, gone}, service_);
        if (!read) {
            sent_ = true;
            if (!given_up_) {
                send_error(socket_, 400, read.error().message);
                return;
            }
            RequestFields f(body);
            socket_.send(json_text({{"type", "done"},
                                    {"finish_reason", "aborted"},
                                    {"request_id", f.text("request_id", "", 256)},
                                    {"total_tokens", 0}}));
            return;
        }
        if (read->logprobs) read->ignored.emplace_back("logprobs"); // its frames have no place for them
        read->generation.n_probs.reset();
        std::vector<std::string> ignored = std::move(read->ignored);
        std::erase_if(ignored, [](const std::string& name) { return name == "type" || name == "api_key"; });
        const std::shared_ptr<Generation> generation = service_.queue.submit(std::move(read->generation));
        if (!generation) {
            sent_ = true;
            send_error(socket_, 503, "the server is busy: as many requests wait as may; try again later");
            return;
        }
        {
            const base::Lock lock(mutex_);
            generation_ = generation;
        }
        if (given_up_) generation->cancel();
        send_generation(socket_, *generation, ignored, sent_);
    }
    void give_up() {
        given_up_ = true;
        const base::Lock lock(mutex_);
        if (generation_) generation_->cancel();
    }
    void end() {
        if (!sender_.joinable()) return;
        if (!sent_) give_up();
        sender_.join();
        sending_ = false;
        const base::Lock lock(mutex_);
        generation_.reset();
    }

    Service& service_;
    httplib::ws::WebSocket& socket_;
    bool known_;
    bool sending_ = false;
    std::atomic<bool> sent_{false}, given_up_{false}; // the sender's last frame goes out; nobody waits for it
    base::Mutex mutex_;
    std::shared_ptr<Generation> generation_ GUARDED_BY(mutex_); // null until it was submitted
    std::thread sender_;
};

} // namespace

void add_websocket(httplib::Server& http, Service& service) {
    http.WebSocket(websocket_path, [&service](const httplib::Request& request, httplib::ws::WebSocket& socket) {
        // A message whose middle does not come for this long ends the connection; between messages it is only looked up.
        socket.set_read_timeout(std::chrono::seconds(2));
        const bool known = !service.access->key_wanted() || service.access->key_given(request);
        const auto idle_limit = std::chrono::seconds(300); // of a connection that says nothing before its first request
        auto last = std::chrono::steady_clock::now();
        bool asked = false;
        Conversation conversation(service, socket, known);
        std::string message;
        while (socket.is_open() && !service.closing) {
            switch (socket.read(message)) {
            case httplib::ws::Text:
                asked = true;
                if (!conversation.hear(message)) return socket.close(httplib::ws::CloseStatus::PolicyViolation);
                break;
            case httplib::ws::Binary:
                socket.close(httplib::ws::CloseStatus::UnsupportedData, "requests are text");
                return;
            case httplib::ws::Timeout:
                if (!asked && std::chrono::steady_clock::now() - last > idle_limit) {
                    return socket.close(httplib::ws::CloseStatus::PolicyViolation, "no request came");
                }
                break;
            case httplib::ws::Fail: return;
            }
        }
    });
}

} // namespace attnscope::server
