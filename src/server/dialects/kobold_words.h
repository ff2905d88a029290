// KoboldCPP's shapes of answers, whoever generates.
#pragma once

#include "server/http/request_fields.h"

#include <cstdint>
#include <string>

namespace attnscope::server {

inline constexpr const char* kobold_api_version = "1.2.5";

// "stop", "length" or "abort".
const char* kobold_reason(const std::string& finish_reason);
// GET /api/extra/version; `is_protected`: a key is asked for.
Json kobold_version(bool is_protected);
// An event of its stream; `members`: JSON of further ones, "\"attention\":{...}"; may be empty.
std::string kobold_event(const Json& body, const std::string& members);

// GET /api/extra/perf: of the last generation that ended, and of now.
struct KoboldPerf {
    double prompt_seconds = 0, generate_seconds = 0;
    int64_t n_prompt = 0, n_read = 0, n_generated = 0; // n_read: tokens of the prompt that were not there already
    uint32_t seed = 0;
    int stop_reason = -1; // 0 length, 1 end of text, 2 another, -1 nothing ended yet
    int64_t n_generations = 0, n_waiting = 0;
    bool busy = false;
    double up_seconds = 0;
};
Json kobold_perf(const KoboldPerf& perf);

} // namespace attnscope::server
