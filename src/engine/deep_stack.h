// Runs work that recurses once for every byte of its input on a stack that holds so many levels.
#pragma once

#include <attnscope/error.h>

#include <cstddef>
#include <functional>

namespace attnscope::engine {

// Calls `work`, on a thread of its own with a stack of 1 KiB for each of `levels` where the caller's own may not be enough,
// and waits for it. Address space, not memory: pages are taken as they are touched. `work` must not throw.
// io: there is no address space for such a stack; `work` was not called.
Result<void> run_on_deep_stack(size_t levels, const std::function<void()>& work);

} // namespace attnscope::engine
