// Asks for keys a few rows ahead. Keys of one KV head are separated by those of the others, which defeats the
// hardware's prefetching: without this the dot products take more than twice as long.
#pragma once

#include "attention/kernels/simd.h"

#include <algorithm>

namespace attnscope::attention {

// Before rows [row, row + n) of the task are multiplied.
[[gnu::always_inline]] inline void prefetch_keys(const DotTask& t, size_t element_size, int64_t row, int64_t n) {
    if (t.ahead) {
        for (int64_t r = row; r < row + n; ++r) {
            for (size_t b = 0; b < t.ahead_bytes; b += 64)
                __builtin_prefetch(t.ahead + static_cast<size_t>(r) * t.ahead_stride + b, 0, 3);
        }
        return;
    }
    // Measured: for several heads 1 is too late, 16 and more evict what is in use; one alone is done with a key sooner.
    const int64_t ahead = t.n_q == 1 ? 16 : 8;
    constexpr size_t line = 64;
    const size_t bytes = static_cast<size_t>(t.head_dim) * element_size;
    for (int64_t r = row + ahead; r < std::min(row + ahead + n, t.n); ++r) {
        const uint8_t* k = t.k + static_cast<size_t>(r) * t.k_stride;
        for (size_t b = 0; b < bytes; b += line) __builtin_prefetch(k + b, 0, 3);
    }
}

} // namespace attnscope::attention
