#include "server/http/websocket.h"

#include "server/http/reply.h"

#include <thread>
#include <utility>

namespace attnscope::server {

namespace {

// `id`: of the request that it is about, where it has one.
bool send_error(httplib::ws::WebSocket& socket, int status, const std::string& message, const std::string& id) {
    Json body = error_body(Dialect::kobold, status, message);
    body["type"] = "error";
    body["status"] = status;
    if (!id.empty()) body["request_id"] = id;
    return socket.send(json_text(body));
}

// Reads what the client says, on the connection's thread, while another sends an answer.
class Conversation {
public:
    Conversation(const Access& access, const std::atomic<bool>& closing, const SocketAnswer& answer,
                 const httplib::Request& request, httplib::ws::WebSocket& socket)
        : access_(access), closing_(closing), answer_(answer), request_(request), socket_(socket),
          known_(!access.key_wanted() || access.key_given(request)) {}
    ~Conversation() { end(); }
    Conversation(const Conversation&) = delete;
    Conversation& operator=(const Conversation&) = delete;

    // False: the connection ends.
    bool hear(const std::string& message) {
        Result<Json> body = parse_body(message);
        if (!body) return send_error(socket_, 400, body.error().message, "");
        RequestFields f(*body);
        const std::string id = f.text("request_id", "", 256);
        if (!known_) {
            known_ = access_.key_fits(f.text("api_key", "", 4096));
            if (!known_) {
                send_error(socket_, 401, "an API key is needed: send it as \"api_key\" in the first message", id);
                return false;
            }
        }
        const std::string type = f.text("type", "generate", 64);
        if (type == "abort") {
            given_up_ = true;
            return true;
        }
        if (sending_ && !sent_)
            return send_error(socket_, 400, "a generation is running on this connection; abort it first", id);
        end();
        given_up_ = sent_ = false;
        sending_ = true;
        sender_ = std::thread([this, request = std::move(*body), message, id] {
            SocketReply reply(socket_, sent_, id);
            answer_(
                request, message, request_, [this] { return given_up(); }, reply);
            sent_ = true;
        });
        return true;
    }

private:
    bool given_up() const {
        return given_up_ || closing_ || !socket_.is_open() || socket_.request().is_connection_closed();
    }
    void end() {
        if (!sender_.joinable()) return;
        if (!sent_) given_up_ = true;
        sender_.join();
        sending_ = false;
    }

    const Access& access_;
    const std::atomic<bool>& closing_;
    const SocketAnswer& answer_;
    const httplib::Request& request_;
    httplib::ws::WebSocket& socket_;
    bool known_;
    bool sending_ = false;
    std::atomic<bool> sent_{false}, given_up_{false}; // the sender's last frame goes out; nobody waits for it
    std::thread sender_;
};

} // namespace

bool SocketReply::token(Json body, const std::string& attention, const std::vector<Tensor>& tensors) {
    Json& binary = body["binary"] = Json::array();
    for (const Tensor& tensor : tensors) binary.push_back(tensor.name);
    std::string text = json_text(body);
    text.pop_back();
    text += ",\"attention\":" + attention + "}";
    if (!socket_.send(text)) return false;
    for (const Tensor& tensor : tensors) {
        if (!socket_.send(static_cast<const char*>(tensor.data), tensor.size)) return false;
    }
    return true;
}

bool SocketReply::error(const std::string& message) {
    return send_error(socket_, 500, message, id_);
}

void SocketReply::end(const Json& body) {
    ended_ = true;
    socket_.send(json_text(body));
}

void SocketReply::fail(int status, const std::string& message) {
    ended_ = true;
    send_error(socket_, status, message, id_);
}

Json socket_nothing(const Json& body) {
    RequestFields f(body);
    return {{"type", "done"},
            {"finish_reason", "aborted"},
            {"request_id", f.text("request_id", "", 256)},
            {"total_tokens", 0}};
}

std::string socket_attention(const std::string& head, size_t n_bytes) {
    return head + ",\"bytes\":" + std::to_string(n_bytes) + "}";
}

void drop_socket_fields(std::vector<std::string>& ignored) {
    std::erase_if(ignored, [](const std::string& name) { return name == "type" || name == "api_key"; });
}

void add_websocket(httplib::Server& http, const Access& access, const std::atomic<bool>& closing, SocketAnswer answer) {
    http.WebSocket(websocket_path, [&access, &closing, answer = std::move(answer)](const httplib::Request& request,
                                                                                   httplib::ws::WebSocket& socket) {
        // A message whose middle does not come for this long ends the connection; between messages it is only looked up.
        socket.set_read_timeout(std::chrono::seconds(2));
        const auto idle_limit = std::chrono::seconds(300); // of a connection that says nothing before its first request
        auto last = std::chrono::steady_clock::now();
        bool asked = false;
        Conversation conversation(access, closing, answer, request, socket);
        std::string message;
        while (socket.is_open() && !closing) {
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
