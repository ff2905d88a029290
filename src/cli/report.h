// How verbs speak of failure: one line on standard error, or an object on standard output with --json.
#pragma once

#include "cli/verbs.h"

#include <attnscope/error.h>

#include <nlohmann/json.hpp>

#include <cstdio>

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

} // namespace attnscope::cli
