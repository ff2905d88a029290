// What the families of endpoints share: one of each for a running server.
#pragma once

#include "server/http/server.h"

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>

namespace attnscope::server {

class Access;

struct Service {
    Session& session; // its vocabulary and description only: decoding belongs to the queue
    GenerationQueue& queue;
    const ServerOptions& options;
    const ModelInfo model;
    const Geometry geometry;
    const Access* access = nullptr;
    std::atomic<bool> closing{false};
    std::chrono::steady_clock::time_point started;
};

// Whether nobody is left to read the answer to `request`; borrows both.
inline GivenUp gone(const httplib::Request& request, const Service& service) {
    return [&] { return service.closing || request.is_connection_closed(); };
}

// The text of tokens, as bytes.
inline std::string text_of(const Session& session, std::span<const int32_t> tokens) {
    std::string text;
    for (const int32_t token : tokens) text += session.piece(token);
    return text;
}

// The families. Each adds its routes; `service` outlives `http`.
void add_halo_weave(httplib::Server& http, Service& service);
void add_kobold(httplib::Server& http, Service& service);
void add_llama_server(httplib::Server& http, Service& service);
void add_socket(httplib::Server& http, Service& service);

} // namespace attnscope::server
