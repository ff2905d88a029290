#include "base/hash64.h"

#if defined(__x86_64__)

#include <cstdlib>
#include <cstring>
#include <immintrin.h>

// Whatever xxhash.h defines is for this instruction set: it is defined for this source alone.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define XXH_INLINE_ALL
#define XXH_VECTOR 2 // XXH_AVX2
#include <xxhash.h>

namespace attnscope::base {

namespace {

uint64_t by_avx2(const uint8_t* bytes, size_t n, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, n, seed);
}

} // namespace

} // namespace attnscope::base
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace attnscope::base {

Hash64 hash64_avx2() {
    return __builtin_cpu_supports("avx2") ? by_avx2 : nullptr;
}

} // namespace attnscope::base

#else

namespace attnscope::base {

Hash64 hash64_avx2() {
    return nullptr;
}

} // namespace attnscope::base

#endif
