#include "server/view/view_server.h"

#include "server/http/access.h"
#include "server/http/cannot_listen.h"
#include "server/http/connection_threads.h"
#include "server/http/framing.h"
#include "server/http/reply.h"
#include "server/view/routes.h"

#include <optional>
#include <thread>

namespace attnscope::server {

namespace {

class ViewServerImpl : public ViewServer {
public:
    explicit ViewServerImpl(const ServerOptions& options) : options_(options) {}
    ~ViewServerImpl() override { stop(); }

    Result<void> listen(const std::vector<std::string>& paths) {
        for (const std::string& path : paths) {
            if (Result<void> r = sources_.add(path); !r) return r;
        }
        http_.new_task_queue = [n = options_.max_connections] { return new ConnectionThreads(n); };
        http_.set_payload_max_length(1 << 16);
        http_.set_read_timeout(options_.timeout);
        http_.set_write_timeout(options_.timeout);
        http_.set_keep_alive_timeout(2); // stop() waits for connections that idle
        port_ = options_.port > 0 ? (http_.bind_to_port(options_.host, options_.port) ? options_.port : -1)
                                  : http_.bind_to_any_port(options_.host);
        if (port_ < 0) return cannot_listen(options_.host, options_.port);
        access_.emplace(options_, port_);
        http_.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
            return access_->stop(request, response) ? httplib::Server::HandlerResponse::Handled
                                                    : httplib::Server::HandlerResponse::Unhandled;
        });
        http_.set_error_handler([](const httplib::Request&, httplib::Response& response) {
            if (!response.body.empty()) return httplib::Server::HandlerResponse::Unhandled;
            refuse(response, Dialect::openai, response.status,
                   response.status == 404 ? "there is no such page" : "the request cannot be understood");
            return httplib::Server::HandlerResponse::Handled;
        });
        http_.set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
            refuse(response, Dialect::openai, 500, "the request could not be answered for want of memory");
        });
        http_.set_post_routing_handler(settle_connection);
        for (const char* path : {"/", "/index.html", "/view/index.html"})
            http_.Get(path, [](const httplib::Request&, httplib::Response& a) { a.set_redirect("/view/"); });
        add_view_page(http_);
        add_view_routes(http_, sources_, false);
        sources_.begin();
        thread_ = std::thread([this] { http_.listen_after_bind(); });
        http_.wait_until_ready();
        return {};
    }

    void watch(const std::string& folder) { sources_.watch(folder, false); }
    int port() const override { return port_; }
    void stop() override {
        http_.stop();
        if (thread_.joinable()) thread_.join();
    }

private:
    const ServerOptions options_;
    ViewSources sources_;
    httplib::Server http_;
    std::optional<Access> access_;
    int port_ = -1;
    std::thread thread_;
};

} // namespace

Result<std::unique_ptr<ViewServer>> ViewServer::start(const std::vector<std::string>& paths,
                                                      const ServerOptions& options) {
    auto server = std::make_unique<ViewServerImpl>(options);
    if (Result<void> r = server->listen(paths); !r) return r.error();
    return std::unique_ptr<ViewServer>(std::move(server));
}

Result<std::unique_ptr<ViewServer>> ViewServer::watch(const std::string& folder, const ServerOptions& options) {
    auto server = std::make_unique<ViewServerImpl>(options);
    server->watch(folder);
    if (Result<void> r = server->listen({}); !r) return r.error();
    return std::unique_ptr<ViewServer>(std::move(server));
}

} // namespace attnscope::server
