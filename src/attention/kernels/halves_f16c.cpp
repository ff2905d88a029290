#include "attention/kernels/halves_f16c.h"

#include "base/halves.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

namespace attnscope::attention {

namespace {

__attribute__((target("avx,f16c"))) void write_f16(const float* from, uint16_t* to, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(static_cast<__m128i*>(static_cast<void*>(to + i)), halves);
    }
    for (; i < n; ++i) to[i] = base::float_to_f16(from[i]);
}

__attribute__((target("avx,f16c"))) void read_f16(const uint16_t* from, float* to, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(from + i)));
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
    }
    for (; i < n; ++i) to[i] = base::f16_to_float(from[i]);
}

// __builtin_cpu_supports knows "f16c" in GCC only. What the operating system must do for it, it does for AVX.
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

} // namespace

WriteF16 write_f16_by_instruction() {
    static const bool has = has_f16c();
    return has ? write_f16 : nullptr;
}

ReadF16 read_f16_by_instruction() {
    static const bool has = has_f16c();
    return has ? read_f16 : nullptr;
}

} // namespace attnscope::attention

#else

namespace attnscope::attention {
WriteF16 write_f16_by_instruction() {
    return nullptr;
}
ReadF16 read_f16_by_instruction() {
    return nullptr;
}
} // namespace attnscope::attention

#endif
