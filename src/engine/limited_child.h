// Runs work whose program comes from a stranger where it can do no harm: in a child process with limits.
#pragma once

#include <attnscope/error.h>
#include <attnscope/session.h>

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>

namespace attnscope::engine {

struct ChildLimits {
    std::chrono::milliseconds cpu{5000};   // of the child's processor time, which a busy machine does not use up
    std::chrono::milliseconds wall{10000}; // since it began
};

// What waiting for a child came to.
enum class Waited { answered, too_much_cpu, too_long, given_up };

// Calls `work` in a fork of this process with 1 GiB of further memory, 64 MiB of stack and `limits` of time, and gives its text back.
// What the work does to memory is lost; a crash, endless recursion or an endless loop of it becomes an error (unsupported) that
// begins with `name`. `work` may throw std::exception: invalid_argument, with its words. Who is `given_up` gets an error (engine) at
// once. From any thread; must not use a device.
Result<std::string> run_limited(const std::string& name, const std::function<std::string()>& work,
                                const ChildLimits& limits = {}, const GivenUp& given_up = {}, Waited* waited = nullptr);

// Forks a child that calls `work` with `end` (its one open file beside standard ones, which are /dev/null), `memory_bytes` of further
// memory and a stack of 64 MiB, and ends. It ends with the thread that made it, too. What `work` throws ends it. -1: no process.
pid_t fork_limited(int end, size_t memory_bytes, const std::function<void(int end)>& work);

// Waits until there is something to read from `end` (or it was closed), the child has computed for `cpu`, `until` has come, or
// nobody wants it any more. The child goes on in any case.
Waited wait_for_child(int end, pid_t child, std::chrono::milliseconds cpu, std::chrono::steady_clock::time_point until,
                      const GivenUp& given_up);
// Processor time that a child of this process has taken; 0 where the system does not say.
std::chrono::milliseconds cpu_used(pid_t child);
// "5", "0.3"
std::string seconds_text(std::chrono::milliseconds time);

} // namespace attnscope::engine
