#include "cli/recordings_named.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

namespace attnscope::cli {

std::vector<std::string> recordings_in(const std::string& folder) {
    namespace fs = std::filesystem;
    std::vector<std::string> inside;
    std::error_code ec;
    for (fs::directory_iterator at(folder, ec), end; !ec && at != end; at.increment(ec)) {
        if (at->path().extension() == ".attn") inside.push_back(at->path().string());
    }
    std::sort(inside.begin(), inside.end());
    return inside;
}

NamedRecordings recordings_named(const std::vector<std::string>& given) {
    NamedRecordings named;
    named.one = given.size() == 1;
    for (const std::string& path : given) {
        std::vector<std::string> inside = recordings_in(path);
        named.one = named.one && inside.empty();
        if (inside.empty()) inside.push_back(path); // whoever opens it says what it is
        named.paths.insert(named.paths.end(), inside.begin(), inside.end());
    }
    return named;
}

} // namespace attnscope::cli
