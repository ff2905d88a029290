// Runs another program and waits for it; no shell in between.
#pragma once

#include <attnscope/error.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::base {

struct ProgramRun {
    std::vector<std::string> argv;                                // argv[0] is looked up in PATH
    std::vector<std::pair<std::string, std::string>> environment; // set on top of our own
    std::function<void()> tick;                                   // called about twice a second while it runs
};

struct ProgramEnd {
    int exit_code = 0;  // 128 + the signal's number where a signal ended it
    std::string output; // the last 8 KiB of standard output and standard error together
};

// not_found when there is no such program.
Result<ProgramEnd> run_program(const ProgramRun& run);

} // namespace attnscope::base
