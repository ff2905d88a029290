#include "server/http/paths.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace attnscope::server {

namespace {

const char* const routes[] = {"/",
                              "/api/extra/abort",
                              "/api/extra/detokenize",
                              "/api/extra/generate/check",
                              "/api/extra/generate/stream",
                              "/api/extra/generate/stream/ws",
                              "/api/extra/perf",
                              "/api/extra/tokencount",
                              "/api/extra/true_max_context_length",
                              "/api/extra/version",
                              "/api/v1/config/max_context_length",
                              "/api/v1/config/max_length",
                              "/api/v1/detokenize",
                              "/api/v1/generate",
                              "/api/v1/info/version",
                              "/api/v1/model",
                              "/api/v1/prune",
                              "/api/v1/tokenize",
                              "/apply-template",
                              "/health",
                              "/view/"};

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
    for (const char* route : {"/models", "/chat/completions"}) {
        if (out == route) return "/v1" + out;
    }
    return out;
}

std::string nearest_route(const std::string& path) {
    const std::string asked = path.substr(0, 256);
    return *std::min_element(std::begin(routes), std::end(routes),
                             [&](const char* a, const char* b) { return distance(asked, a) < distance(asked, b); });
}

} // namespace attnscope::server
