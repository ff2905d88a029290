#include "server/http/paths.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace attnscope::server {

namespace {

struct Route {
    const char *path, *methods;
};
constexpr const char* get = "GET, HEAD";
constexpr const char* post = "POST";
constexpr Route routes[] = {{"/", get},
                            {"/api/extra/abort", post},
                            {"/api/extra/detokenize", post},
                            {"/api/extra/generate/check", "GET, HEAD, POST"},
                            {"/api/extra/generate/stream", post},
                            {"/api/extra/generate/stream/ws", nullptr}, // a WebSocket
                            {"/api/extra/perf", get},
                            {"/api/extra/tokencount", post},
                            {"/api/extra/true_max_context_length", get},
                            {"/api/extra/version", get},
                            {"/api/v1/config/max_context_length", get},
                            {"/api/v1/config/max_length", get},
                            {"/api/v1/detokenize", post},
                            {"/api/v1/generate", post},
                            {"/api/v1/info/version", get},
                            {"/api/v1/model", get},
                            {"/api/v1/prune", post},
                            {"/api/v1/tokenize", post},
                            {"/apply-template", post},
                            {"/health", get},
                            {"/view/", get}};

// Levenshtein's: how many letters change.
size_t distance(const std::string& a, const std::string& b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t(0));
    for (size_t i = 0; i < a.size(); ++i) {
        size_t diagonal = row[0]++;
        for (size_t j = 0; j < b.size(); ++j) {
            const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
        }
    }
    return row.back();
}

} // namespace

std::string canonical_path(const std::string& path) {
    std::string out = path;
    if (out.rfind("/view", 0) != 0) { // the page's own folder ends with one
        while (out.size() > 1 && out.back() == '/') out.pop_back();
    }
    if (out.rfind("/api/latest/", 0) == 0) return "/api/v1/" + out.substr(12);
    if (out == "/index.html" || out == "/view/index.html") return out.substr(0, out.rfind('/') + 1);
    for (const char* route : {"/models", "/chat/completions"}) {
        if (out == route) return "/v1" + out;
    }
    return out;
}

const char* methods_of(const std::string& path) {
    const auto* const route =
        std::find_if(std::begin(routes), std::end(routes), [&](const Route& r) { return path == r.path; });
    return route == std::end(routes) ? nullptr : route->methods;
}

std::string nearest_route(const std::string& path) {
    const std::string asked = path.substr(0, 256);
    return std::min_element(
               std::begin(routes), std::end(routes),
               [&](const Route& a, const Route& b) { return distance(asked, a.path) < distance(asked, b.path); })
        ->path;
}

} // namespace attnscope::server
