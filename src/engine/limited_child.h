// Runs work whose program comes from a stranger where it can do no harm: in a child process with limits.
#pragma once

#include <attnscope/error.h>
#include <attnscope/session.h>

#include <chrono>
#include <functional>
#include <string>

namespace attnscope::engine {

struct ChildLimits {
    std::chrono::milliseconds cpu{5000};   // of the child's processor time, which a busy machine does not use up
    std::chrono::milliseconds wall{10000}; // since it began
};

// Calls `work` in a fork of this process with 1 GiB of further memory, 64 MiB of stack and `limits` of time, and gives its text back.
// What the work does to memory is lost; a crash, endless recursion or an endless loop of it becomes an error (unsupported) that
// begins with `name`. `work` may throw std::exception: invalid_argument, with its words. Who is `given_up` gets an error (engine) at
// once. From any thread; must not use a device.
Result<std::string> run_limited(const std::string& name, const std::function<std::string()>& work,
                                const ChildLimits& limits = {}, const GivenUp& given_up = {});

} // namespace attnscope::engine
