// What every server of ours does before a request reaches a route: it listens, asks Access, has a thread for each connection, and
// ends in time.
#pragma once

#include "server/http/access.h"
#include "server/http/pipelined_server.h"
#include "server/http/server.h"

#include <attnscope/error.h>

#include <functional>
#include <future>
#include <optional>
#include <string>
#include <thread>

namespace attnscope::server {

// Set in Response::user_data: its status and body are another server's, whatever they are.
inline constexpr const char* passed_on = "passed on";

class HttpHost {
public:
    // `page`: what lies under /view/ is ours.
    explicit HttpHost(const ServerOptions& options, bool page = true) : options_(options), page_(page) {}
    ~HttpHost() { stop(); }
    HttpHost(const HttpHost&) = delete;
    HttpHost& operator=(const HttpHost&) = delete;

    // Binds. `prepare` is called with each request before Access sees it, and may change it.
    Result<void> bind(std::function<void(httplib::Request&)> prepare);
    // Routes are added between bind() and start().
    httplib::Server& http() { return http_; }
    void start();
    int port() const { return port_; }
    const Access& access() const { return *access_; }
    // Ends all connections: whoever still reads after two seconds is cut off.
    void stop();

private:
    static void shut_connections(int port);

    const ServerOptions& options_;
    const bool page_;
    PipelinedServer http_;
    std::optional<Access> access_;
    int port_ = -1;
    std::promise<void> ended_; // of the thread
    std::thread thread_;
};

} // namespace attnscope::server
