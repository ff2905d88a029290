// Runs work whose program comes from a stranger where it can do no harm: in a child process with limits.
#pragma once

#include <attnscope/error.h>

#include <functional>
#include <string>

namespace attnscope::engine {

// Calls `work` in a fork of this process with 1 GiB of further memory, 64 MiB of stack and ten seconds, and gives its text back.
// What the work does to memory is lost; a crash, endless recursion or an endless loop of it becomes an error (unsupported) that
// begins with `name`. `work` may throw std::exception: invalid_argument, with its words. From any thread; must not use a device.
Result<std::string> run_limited(const std::string& name, const std::function<std::string()>& work);

} // namespace attnscope::engine
