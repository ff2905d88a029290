#include "server/http/server.h"

#include "server/http/access.h"
#include "server/http/connection_threads.h"
#include "server/http/paths.h"
#include "server/http/pipelined_server.h"
#include "server/http/reply.h"
#include "server/http/service.h"
#include "server/view/routes.h"

#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <future>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace attnscope::server {

namespace {

// Never what was asked (a query may hold a key), only where.
std::string log_line(const httplib::Request& request, const httplib::Response& response) {
    char now[32];
    const std::time_t t = std::time(nullptr);
    std::tm parts{};
    std::strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &parts));
    return fmt::format("{} {} {} {} {} {}", now, request.remote_addr, printable(request.method, 16),
                       printable(request.path, 200), response.status,
                       response.get_header_value("Content-Type") == "text/event-stream"
                           ? "stream"
                           : std::to_string(response.body.size()) + " bytes");
}

ModelInfo named(ModelInfo info, const std::string& alias) {
    if (!alias.empty()) info.name = alias;
    return info;
}

class ServerImpl : public Server {
public:
    ServerImpl(Session& session, const ServerOptions& options)
        : options_(options),
          queue_(session, queue_options(options)), service_{session,
                                                            queue_,
                                                            options_,
                                                            named(session.model_info(), options.alias),
                                                            session.geometry(),
                                                            nullptr,
                                                            false,
                                                            std::chrono::steady_clock::now()} {}
    ~ServerImpl() override { stop(); }

    Result<void> listen() {
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
        if (port_ < 0) {
            return Error{ErrorKind::io,
                         fmt::format("cannot listen on {} port {}: it is in use, or not an address of this machine",
                                     options_.host, options_.port)};
        }
        access_.emplace(options_, port_);
        http_.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
            // httplib routes by this very object, which is not const where it is made
            auto& routed = const_cast<httplib::Request&>(request);
            routed.path = canonical_path(request.path);
            // Bodies are JSON whatever they are called: curl calls them a form, of which httplib would read 8 KB.
            routed.headers.erase("Content-Type");
            return access_->stop(request, response) ? httplib::Server::HandlerResponse::Handled
                                                    : httplib::Server::HandlerResponse::Unhandled;
        });
        http_.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
            if (!response.body.empty()) return httplib::Server::HandlerResponse::Unhandled;
            const std::string encoding = request.get_header_value("Content-Encoding");
            const std::string why =
                response.status == 404   ? "there is no such endpoint; the nearest is " + nearest_route(request.path)
                : response.status == 413 ? "the body is larger than this server takes"
                : response.status == 415 && !encoding.empty()
                    ? "Content-Encoding " + encoding.substr(0, 32) + " is not supported; send the body as it is"
                    : "the request cannot be understood";
            refuse(response, dialect_of(request.path), response.status, why);
            return httplib::Server::HandlerResponse::Handled;
        });
        if (options_.log && options_.log_requests) {
            http_.set_logger([this](const httplib::Request& request, const httplib::Response& response) {
                options_.log(log_line(request, response));
            });
        }
        http_.set_exception_handler(
            [](const httplib::Request& request, httplib::Response& response, std::exception_ptr) {
                refuse(response, dialect_of(request.path), 500, "the request could not be answered for want of memory");
            });
        service_.access = &*access_;
        http_.Get("/", [](const httplib::Request&, httplib::Response& response) {
            response.set_content(
                "<!doctype html><title>attnscope</title><h1>attnscope</h1><p>The exact attention of a GGUF model, live."
                "<p><a href=\"/view/\">Look at it</a>. Routes: KoboldCPP's and Halo Weave's under /api/v1 and "
                "/api/extra, "
                "OpenAI's under /v1, llama-server's /completion, /health, /props, /slots, /tokenize, /detokenize, "
                "/apply-template, /metrics.",
                "text/html; charset=utf-8");
        });
        add_halo_weave(http_, service_);
        add_kobold(http_, service_);
        add_llama_completion(http_, service_);
        add_llama_server(http_, service_);
        add_openai(http_, service_);
        add_prune(http_, service_);
        add_websocket(http_, service_);
        sources_.watch(options_.record_dir);
        add_view_page(http_);
        add_view_routes(http_, sources_, options_.attention);
        thread_ = std::thread([this] {
            http_.listen_after_bind();
            ended_.set_value();
        });
        http_.wait_until_ready();
        return {};
    }

    int port() const override { return port_; }

    void stop() override {
        service_.closing = true;
        queue_.close();
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

private:
    // httplib waits for its connections, each of which waits for a client that may have sent half a request and now says
    // nothing; it keeps no list of them, but the system does.
    static void shut_connections(int port) {
        std::error_code ec;
        for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ec)) {
            const int fd = std::atoi(entry.path().filename().c_str());
            sockaddr_storage address{};
            socklen_t size = sizeof address;
            if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) continue;
            const in_port_t at = address.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(address).sin_port
                                 : address.ss_family == AF_INET6
                                     ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                     : 0;
            if (ntohs(at) == port) shutdown(fd, SHUT_RDWR);
        }
    }

    static QueueOptions queue_options(const ServerOptions& o) {
        QueueOptions q;
        q.max_waiting = o.max_waiting;
        q.record_dir = o.record_dir;
        q.frames = o.attention;
        q.time_limit = o.time_limit;
        q.limits.queue_bytes = o.stream_memory;
        q.limits.stall = o.stall;
        q.limits.n_threads = o.attention_threads;
        q.limits.engine_threads = o.engine_threads;
        return q;
    }

    const ServerOptions options_;
    GenerationQueue queue_;
    Service service_;
    ViewSources sources_;
    PipelinedServer http_;
    std::optional<Access> access_;
    int port_ = -1;
    std::promise<void> ended_; // of the thread
    std::thread thread_;
};

} // namespace

Result<std::unique_ptr<Server>> Server::start(Session& session, const ServerOptions& options) {
    auto server = std::make_unique<ServerImpl>(session, options);
    if (Result<void> r = server->listen(); !r) return r.error();
    return std::unique_ptr<Server>(std::move(server));
}

} // namespace attnscope::server
