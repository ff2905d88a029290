// How verbs speak of failure: one line on standard error, or an object on standard output with --json.
#pragma once

#include "cli/verbs.h"

#include <attnscope/error.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include <unistd.h>

namespace attnscope::cli {

inline int report(const Error& error, bool json = false) {
    if (json) {
        const nlohmann::json body = {{"error", {{"kind", error_kind_name(error.kind)}, {"message", error.message}}}};
        std::printf("%s\n", body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else {
        std::fprintf(stderr, "error: %s\n", error.message.c_str());
    }
    return exit_failed;
}

// What a person may like to know. Where it cannot be written (a closed pipe, a full disk) it is lost, and nobody's work ends for it,
// as it would with fmt::print, which throws.
template <typename... Values> void tell(fmt::format_string<Values...> format, Values&&... values) {
    std::fputs(fmt::format(format, std::forward<Values>(values)...).c_str(), stderr);
}

// "1 token", "2 tokens"
inline std::string counted(int64_t n, const std::string& thing) {
    return std::to_string(n) + " " + thing + (n == 1 ? "" : "s");
}

// Takes away what a line of progress has left; nothing where standard error is no terminal.
inline const char* clear_line() {
    return isatty(STDERR_FILENO) ? "\x1b[K" : "";
}

} // namespace attnscope::cli
