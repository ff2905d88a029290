// A session's HTTP server in this process, attnscope serve --in-process. docs/http.md describes every endpoint, docs/security.md what is
// defended.
#pragma once

#include "server/generation/generation_queue.h"

#include <attnscope/error.h>
#include <attnscope/session.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::server {

struct ServerOptions {
    std::string host = "127.0.0.1";
    int port = 5001;                        // 0: a free one
    std::vector<std::string> api_keys;      // empty: none is asked for
    std::vector<std::string> cors_origins;  // origins of pages that may call, exactly as browsers send them
    std::vector<std::string> allowed_hosts; // further values of the Host header, NAME or NAME:PORT
    std::string alias;                      // the name of the model in answers; empty: its own
    std::string record_dir;                 // empty: nothing is recorded
    // false: requests for attention are refused; the session may be one that captures nothing
    bool attention = true;
    int32_t attention_threads = 1;            // compute the attention of a token (GenerationLimits::n_threads)
    int32_t engine_threads = 0;               // above 0: the engine's do on a CPU, which has so many (GenerationLimits)
    size_t max_waiting = 32;                  // generations that wait for their turn
    std::chrono::seconds time_limit{0};       // of one generation; 0: none
    std::chrono::seconds timeout{60};         // of a connection that neither reads nor writes
    size_t max_body = size_t(8) << 20;        // bytes of a request's body
    size_t max_connections = 1024;            // each has a thread while it is served
    size_t stream_memory = size_t(128) << 20; // attention that waits for one slow client
    // Gets a line for each Host and Origin that is refused, from any thread; and for every request.
    std::function<void(const std::string& line)> log;
    bool log_requests = false;
    std::chrono::seconds stall{30}; // how long the generation waits for a client whose stream_memory is full
};

class Server {
public:
    // Listens when it returns. The session must outlive the server, which decodes with it from now on.
    static Result<std::unique_ptr<Server>> start(Session& session, const ServerOptions& options);
    virtual ~Server() = default; // stops

    virtual int port() const = 0;
    // Ends every generation and connection. From any thread.
    virtual void stop() = 0;
};

} // namespace attnscope::server
