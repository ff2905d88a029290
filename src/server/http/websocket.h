// The binary stream: the client sends its request as one JSON text frame; for each token the server sends a JSON text
// frame, and behind it the tensors that the frame lists under "binary", each a binary frame of its own. Another request
// may follow on the same connection.
#pragma once

#include "server/http/access.h"
#include "server/http/request_fields.h"

#include <attnscope/attention_view.h>

#include <httplib.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::server {

// The way back of one request, of the thread that answers it.
class SocketReply {
public:
    SocketReply(httplib::ws::WebSocket& socket, std::atomic<bool>& ended, std::string id)
        : socket_(socket), ended_(ended), id_(std::move(id)) {}
    struct Tensor {
        const char* name = "";
        const void* data = nullptr;
        size_t size = 0;
    };
    // A token: its JSON with "binary" and `attention` (JSON, "null" where there is none), then the tensors. False: the client is gone.
    bool token(Json body, const std::string& attention, const std::vector<Tensor>& tensors);
    // Something went wrong, and the answer goes on.
    bool error(const std::string& message);
    // The last message of the answer: whoever reads it may ask for the next one at once.
    void end(const Json& body);
    void fail(int status, const std::string& message);

private:
    httplib::ws::WebSocket& socket_;
    std::atomic<bool>& ended_;
    const std::string id_; // "request_id" of the client; may be empty
};

// Whoever answers: the request, `message` as it came, and whether nobody wants the answer any more (its client said "abort", or is
// gone), to be asked at least at every token. An aborted answer has an end, too. On a thread of its own.
using SocketAnswer = std::function<void(const Json& body, const std::string& message, const httplib::Request& request,
                                        const std::function<bool()>& given_up, SocketReply& reply)>;
// `access` and `closing` outlive `http`.
void add_websocket(httplib::Server& http, const Access& access, const std::atomic<bool>& closing, SocketAnswer answer);

// JSON of an aborted answer of which nothing came.
Json socket_nothing(const Json& body);
// JSON of the attention whose values follow as `n_bytes` bytes; `head`: attention_head().
std::string socket_attention(const std::string& head, size_t n_bytes);
// What the fields of the socket itself are: not ignored, and no field of a request.
void drop_socket_fields(std::vector<std::string>& ignored);

} // namespace attnscope::server
