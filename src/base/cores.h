// How many threads the machine runs at once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <thread>

namespace attnscope::base {

// At least 1. Asked once: the C library reads a file of the system's for every answer, which takes longer than a token's frame.
inline size_t n_cores() {
    static const size_t n = std::max(1u, std::thread::hardware_concurrency());
    return n;
}

} // namespace attnscope::base
