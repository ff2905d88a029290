#include "server/http/access.h"

#include "server/http/reply.h"
#include "server/view/routes.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cctype>

namespace attnscope::server {

namespace {

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

std::string bracketed(const std::string& host) {
    return host.find(':') != std::string::npos && host.front() != '[' ? "[" + host + "]" : host;
}

bool contains(const std::vector<std::string>& list, const std::string& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
}

} // namespace

Result<void> Access::check(const ServerOptions& options) {
    const auto no = [](const std::string& what) { return Error{ErrorKind::invalid_argument, what}; };
    for (const std::string& origin : options.cors_origins) {
        if (origin == "*")
            return no("--cors-origin * would let every page on the web use this server; name the pages: --cors-origin "
                      "http://localhost:8080");
        const size_t scheme = origin.find("://");
        if (origin == "null" || (scheme != std::string::npos && origin.find('/', scheme + 3) == std::string::npos))
            continue;
        if (scheme == std::string::npos)
            return no("--cors-origin " + origin + " lacks its scheme: --cors-origin http://" + origin);
        return no("--cors-origin " + origin + " is more than an origin: --cors-origin " +
                  origin.substr(0, origin.find('/', scheme + 3)));
    }
    for (const std::string& host : options.allowed_hosts) {
        const size_t scheme = host.find("://");
        std::string name = scheme == std::string::npos ? host : host.substr(scheme + 3);
        name = name.substr(0, name.find('/'));
        if (name != host) return no("--allow-host " + host + " is an address, not a name: --allow-host " + name);
        if (host.empty() || host == "*") return no("--allow-host takes a name, such as --allow-host my-machine.local");
    }
    return {};
}

Access::Access(const ServerOptions& options, int port, bool page)
    : keys_(options.api_keys), origins_(options.cors_origins), port_(std::to_string(port)), page_(page),
      log_(options.log) {
    for (const std::string& name :
         {std::string("localhost"), std::string("127.0.0.1"), std::string("[::1]"), lower(bracketed(options.host))}) {
        hosts_.push_back(name + ":" + port_);
        if (port == 80) hosts_.push_back(name);
    }
    for (const std::string& given : options.allowed_hosts) {
        const std::string name = lower(given);
        hosts_.push_back(name);
        const bool with_port =
            name.find(':', name.rfind(']') == std::string::npos ? 0 : name.rfind(']')) != std::string::npos;
        if (!with_port) hosts_.push_back(name + ":" + port_);
    }
}

// A page of a stranger can make a browser resolve the stranger's name to this machine (DNS rebinding) and is then of the
// same origin in the browser's eyes; but it cannot make the browser send another Host.
bool Access::host_allowed(const httplib::Request& request) const {
    // No browser is without one; old probes of load balancers are, in HTTP/1.0.
    if (!request.has_header("Host")) return request.version == "HTTP/1.0";
    if (request.get_header_value_count("Host") != 1) return false;
    const std::string host = lower(request.get_header_value("Host"));
    // An address cannot be rebound: the one that the client reached us at is as good as our name.
    return contains(hosts_, host) || host == lower(bracketed(request.local_addr)) + ":" + port_;
}

bool Access::origin_allowed(const std::string& origin) const {
    if (contains(origins_, origin)) return true;
    // Pages that this server itself serves.
    return origin.rfind("http://", 0) == 0 && contains(hosts_, lower(origin.substr(7)));
}

bool Access::key_fits(const std::string& key) const {
    bool fits = false; // all are compared, in a time that does not depend on where they differ
    for (const std::string& k : keys_)
        fits |= k.size() == key.size() && CRYPTO_memcmp(k.data(), key.data(), k.size()) == 0;
    return fits;
}

bool Access::key_given(const httplib::Request& request) const {
    const std::string bearer = request.get_header_value("Authorization");
    if (lower(bearer.substr(0, 7)) == "bearer " && key_fits(bearer.substr(7))) return true;
    return key_fits(request.get_header_value("X-Api-Key"));
}

void Access::tell(const std::string& refusal) const {
    if (!log_) return;
    {
        const base::Lock lock(mutex_);
        if (told_.size() >= 64 || !told_.insert(refusal).second) return;
    }
    log_("refused: " + refusal);
}

bool Access::stop(const httplib::Request& request, httplib::Response& response) const {
    const Dialect dialect = dialect_of(request.path);
    if (!host_allowed(request)) {
        const size_t n = request.get_header_value_count("Host");
        const std::string host = printable(request.get_header_value("Host"), 128);
        const std::string why = n == 1
                                    ? "the Host " + host + " is not served; to serve it start with --allow-host " + host
                                    : "a request must name one Host, this one names " + std::to_string(n);
        refuse(response, dialect, n == 1 ? 403 : 400, why);
        tell(why);
        return true;
    }
    const std::string origin = request.get_header_value("Origin");
    if (!origin.empty() || request.has_header("Origin")) {
        if (request.get_header_value_count("Origin") != 1 || !origin_allowed(origin)) {
            const std::string seen = printable(origin, 128);
            const std::string why = "pages of the origin " + (seen.empty() ? "(none)" : seen) + " may not call" +
                                    (seen.empty() ? "" : "; to allow them start with --cors-origin " + seen);
            refuse(response, dialect, 403, why);
            tell(why);
            return true;
        }
        response.set_header("Access-Control-Allow-Origin", origin);
        response.set_header("Vary", "Origin");
        response.set_header("Access-Control-Expose-Headers", "Retry-After, X-Ignored-Fields");
    }
    if (request.method == "OPTIONS") {
        response.status = 204;
        if (!origin.empty()) {
            response.set_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
            // The origin is allowed: so is what its libraries send (x-stainless-*).
            const std::string asked = request.get_header_value("Access-Control-Request-Headers");
            const bool plain = asked.size() <= 2048 && std::all_of(asked.begin(), asked.end(), [](unsigned char c) {
                                   return std::isalnum(c) || c == '-' || c == '_' || c == ',' || c == ' ';
                               });
            response.set_header("Access-Control-Allow-Headers",
                                "Authorization, Content-Type, X-Api-Key, Client-Agent" +
                                    (plain && !asked.empty() ? ", " + asked : std::string()));
            response.set_header("Access-Control-Max-Age", "600");
            if (request.has_header("Access-Control-Request-Private-Network")) {
                response.set_header("Access-Control-Allow-Private-Network", "true");
            }
        }
        return true;
    }
    const bool key_later = request.path == websocket_path && request.has_header("Upgrade");
    const bool page = page_ && is_get(request) && is_view_page(request.path);
    if (key_wanted() && !key_given(request) && !key_later && !page) {
        if (page_ && wants_first_page(request)) { // a browser sends no key, the page asks for it
            response.set_redirect("/view/");
            return true;
        }
        response.set_header("WWW-Authenticate", "Bearer");
        refuse(response, dialect, 401, "an API key is needed: send it as 'Authorization: Bearer KEY'");
        return true;
    }
    return false;
}

} // namespace attnscope::server
