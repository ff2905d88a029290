// How verbs speak of failure: a sentence on standard error, or an object on standard output with --json.
#pragma once

#include "cli/lines.h"
#include "cli/verbs.h"

#include <attnscope/error.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include <unistd.h>

namespace attnscope::cli {

// What a person may like to know. Where it cannot be written (a closed pipe, a full disk) it is lost, and nobody's work ends for it,
// as it would with fmt::print, which throws.
template <typename... Values> void tell(fmt::format_string<Values...> format, Values&&... values) {
    std::fputs(fmt::format(format, std::forward<Values>(values)...).c_str(), stderr);
}

// The same of a sentence, behind whose it is, or what: "warning: ".
inline void tell_as(std::string_view what, const std::string& sentence) {
    tell("{}{}\n", what, for_reader(stderr, sentence, what.size()));
}

inline nlohmann::json error_json(const Error& error) {
    return {{"error", {{"kind", error_kind_name(error.kind)}, {"message", error.message}}}};
}

inline int report(const Error& error, bool json = false) {
    if (json) {
        const nlohmann::json body = error_json(error);
        std::printf("%s\n", body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else {
        tell_as("error: ", error.message);
    }
    return exit_failed;
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
