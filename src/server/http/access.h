// Who may talk to the server: API key, Host, Origin, CORS. Decided before any endpoint sees the request.
#pragma once

#include "base/mutex.h"
#include "server/http/server.h"

#include <httplib.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

namespace attnscope::server {

class Access {
public:
    // Origins and hosts that could never match are refused, with the form that would.
    static Result<void> check(const ServerOptions& options);
    // `port`: the one that is listened on. `page`: what lies under /view/ is ours, and needs no key.
    Access(const ServerOptions& options, int port, bool page = true);

    // True: the request was answered (a refusal, or a preflight) and goes no further.
    bool stop(const httplib::Request& request, httplib::Response& response) const;
    // For clients that cannot set headers: browsers that open a WebSocket give the key in their first message.
    bool key_fits(const std::string& key) const;
    bool key_given(const httplib::Request& request) const;
    bool key_wanted() const { return !keys_.empty(); }

private:
    bool host_allowed(const httplib::Request& request) const;
    bool origin_allowed(const std::string& origin) const;

    // Tells the log, each refusal once: a page that is refused may ask again and again.
    void tell(const std::string& refusal) const;

    std::vector<std::string> keys_, origins_, hosts_;
    std::string port_;
    const bool page_;
    const std::function<void(const std::string&)> log_;
    mutable base::Mutex mutex_;
    mutable std::set<std::string> told_ GUARDED_BY(mutex_);
};

// The path whose key may come in the first message.
constexpr const char* websocket_path = "/api/extra/generate/stream/ws";

} // namespace attnscope::server
