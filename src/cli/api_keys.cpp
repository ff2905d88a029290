#include "cli/api_keys.h"

#include "cli/report.h"
#include "cli/session_flags.h"

#include <fmt/format.h>

#include <sstream>

namespace attnscope::cli {

Result<void> read_api_keys(const std::string& file, std::vector<std::string>& keys) {
    if (file.empty()) return {};
    Result<std::string> text = read_text_file(file, 1 << 20);
    if (!text) return text.error();
    std::stringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
        while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
        if (!line.empty()) keys.push_back(line);
    }
    if (keys.empty()) return Error{ErrorKind::invalid_argument, "--api-key-file " + file + " holds no key"};
    return {};
}

bool is_this_machine(const std::string& host) {
    return host.rfind("127.", 0) == 0 || host == "localhost" || host == "::1";
}

void warn_of_strangers(const std::string& host, bool wants_key) {
    if (wants_key || is_this_machine(host)) return;
    tell_as("warning: ", fmt::format("anybody who reaches {} may use this server; give it an --api-key", host));
}

} // namespace attnscope::cli
