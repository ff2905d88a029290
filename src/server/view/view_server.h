// The page on files alone: no model, no session. For `attnscope view` and `attnscope attach --view`.
#pragma once

#include "server/http/server.h"

#include <memory>
#include <string>
#include <vector>

namespace attnscope::server {

class ViewServer {
public:
    // Of the options host, port, api_keys, allowed_hosts, timeout and max_connections count. Listens when it returns. Fails where one of
    // the files cannot be opened at all.
    static Result<std::unique_ptr<ViewServer>> start(const std::vector<std::string>& paths,
                                                     const ServerOptions& options);
    // The same of what comes to lie in `folder`: the newest recording is the one that a page opens.
    static Result<std::unique_ptr<ViewServer>> watch(const std::string& folder, const ServerOptions& options);
    virtual ~ViewServer() = default; // stops
    virtual int port() const = 0;
    virtual void stop() = 0;
};

} // namespace attnscope::server
