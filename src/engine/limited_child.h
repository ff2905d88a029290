// Runs work whose program comes from a stranger where it can do no harm: in a child process with limits.
#pragma once

#include <attnscope/error.h>

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <string>

namespace attnscope::engine {

// Calls `work` in a fork of this process with 1 GiB of further memory, 64 MiB of stack and ten seconds, and gives its text back.
// What the work does to memory is lost; a crash, endless recursion or an endless loop of it becomes an error (unsupported) that
// begins with `name`. `work` may throw std::exception: invalid_argument, with its words. From any thread; must not use a device.
Result<std::string> run_limited(const std::string& name, const std::function<std::string()>& work);

// Forks a child that calls `work` with `end` (its one open file beside standard ones, which are /dev/null), `memory_bytes` of further
// memory and a stack of 64 MiB, and ends. It ends with the thread that made it, too. What `work` throws ends it. -1: no process.
pid_t fork_limited(int end, size_t memory_bytes, const std::function<void(int end)>& work);

} // namespace attnscope::engine
