#include "server/http/http_host.h"

#include "server/http/cannot_listen.h"
#include "server/http/connection_threads.h"
#include "server/http/framing.h"
#include "server/http/paths.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace attnscope::server {

namespace {

// Written before the body is: of one that comes piece by piece only what its head says is known.
std::string length_of(const httplib::Response& response) {
    const bool in_pieces = response.content_provider_ && response.content_length_ == 0;
    if (in_pieces) return "stream";
    return fmt::format("{} bytes", response.content_provider_ ? response.content_length_ : response.body.size());
}

// Never what was asked (a query may hold a key), only where.
std::string log_line(const httplib::Request& request, const httplib::Response& response) {
    char now[32];
    const std::time_t t = std::time(nullptr);
    std::tm parts{};
    std::strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &parts));
    return fmt::format("{} {} {} {} {} {}", now, request.remote_addr, printable(request.method, 16),
                       printable(request.path, 200), response.status, length_of(response));
}

// What httplib itself refuses, and what no route takes.
void refuse_unrouted(const httplib::Request& request, httplib::Response& response) {
    const Dialect dialect = dialect_of(request.path);
    const std::string encoding = request.get_header_value("Content-Encoding"), framing = framing_refusal(request);
    if (response.status == 404) {
        if (request.path == websocket_path) {
            response.set_header("Upgrade", "websocket");
            return refuse(response, dialect, 426, request.path + " is a WebSocket: ask for it with Upgrade: websocket");
        }
        if (const char* methods = methods_of(request.path)) return refuse_method(request, response, methods);
        return refuse(response, dialect, 404,
                      "there is no such endpoint; the nearest is " + nearest_route(request.path));
    }
    refuse(response, dialect, response.status,
           response.status == 413                        ? "the body is larger than this server takes"
           : response.status == 415 && !encoding.empty() ? not_compressed(encoding)
           : response.status == 400 && !framing.empty()  ? framing
                                                         : "the request cannot be understood");
}

} // namespace

Result<void> HttpHost::bind(std::function<void(httplib::Request&)> prepare) {
    if (Result<void> fits = Access::check(options_); !fits) return fits;
    // httplib's own choice lets two servers share a port, each with some of the connections
    http_.set_socket_options([](socket_t socket) { httplib::set_socket_opt(socket, SOL_SOCKET, SO_REUSEADDR, 1); });
    http_.new_task_queue = [n = options_.max_connections] { return new ConnectionThreads(n); };
    http_.set_payload_max_length(options_.max_body);
    http_.set_read_timeout(options_.timeout);
    http_.set_write_timeout(options_.timeout);
    http_.set_websocket_ping_interval(20);
    http_.set_websocket_max_missed_pongs(3);
    port_ = options_.port > 0 ? (http_.bind_to_port(options_.host, options_.port) ? options_.port : -1)
                              : http_.bind_to_any_port(options_.host);
    if (port_ < 0) return cannot_listen(options_.host, options_.port);
    access_.emplace(options_, port_, page_);
    http_.set_pre_routing_handler(
        [this, prepare = std::move(prepare)](const httplib::Request& request, httplib::Response& response) {
            // httplib routes by this very object, which is not const where it is made
            auto& own = const_cast<httplib::Request&>(request);
            PipelinedServer::know_who_leaves(own);
            if (const std::string why = transfer_coding_refusal(request); !why.empty()) {
                refuse(response, dialect_of(request.path), 501, why);
                return httplib::Server::HandlerResponse::Handled;
            }
            prepare(own);
            return access_->stop(request, response) ? httplib::Server::HandlerResponse::Handled
                                                    : httplib::Server::HandlerResponse::Unhandled;
        });
    http_.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
        if (!response.body.empty() || response.user_data.has(passed_on))
            return httplib::Server::HandlerResponse::Unhandled;
        refuse_unrouted(request, response);
        return httplib::Server::HandlerResponse::Handled;
    });
    http_.set_post_routing_handler(settle_connection);
    if (options_.log && options_.log_requests) {
        http_.set_logger([this](const httplib::Request& request, const httplib::Response& response) {
            options_.log(log_line(request, response));
        });
    }
    http_.set_exception_handler([](const httplib::Request& request, httplib::Response& response, std::exception_ptr) {
        refuse(response, dialect_of(request.path), 500, "the request could not be answered for want of memory");
    });
    return {};
}

void HttpHost::start() {
    thread_ = std::thread([this] {
        http_.listen_after_bind();
        ended_.set_value();
    });
    http_.wait_until_ready();
}

void HttpHost::stop() {
    http_.stop();
    if (!thread_.joinable()) return;
    // Whoever reads hears of the end; then nobody is waited for any more.
    const auto ended = ended_.get_future();
    for (std::chrono::seconds patience(2); ended.wait_for(patience) != std::future_status::ready;
         patience = std::chrono::seconds(1)) {
        shut_connections(port_);
    }
    thread_.join();
}

// httplib waits for its connections, each of which waits for a client that may have sent half a request and now says
// nothing; it keeps no list of them, but the system does.
void HttpHost::shut_connections(int port) {
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ec)) {
        const int fd = std::atoi(entry.path().filename().c_str());
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) continue;
        const in_port_t at = address.ss_family == AF_INET    ? reinterpret_cast<const sockaddr_in&>(address).sin_port
                             : address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                                             : 0;
        if (ntohs(at) == port) shutdown(fd, SHUT_RDWR);
    }
}

} // namespace attnscope::server
