// Weighted sums of V, eight dimensions a register.
#include "attention/kernels/weigh_kernels.h"
#include "attention/numbers.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#define ATTNSCOPE_TARGET __attribute__((target("avx2,fma,f16c")))
#define ATTNSCOPE_TARGET_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

struct Lanes {
    using T = __m256;
    static constexpr int width = 8;
    static constexpr int registers = 2;
    static constexpr int max_rows = 2;
    static ATTNSCOPE_TARGET_INLINE T load(const float* x) { return _mm256_load_ps(x); }
    static ATTNSCOPE_TARGET_INLINE void store(float* to, T x) { _mm256_store_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE void storeu(float* to, T x) { _mm256_storeu_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE T load_f16(const uint8_t* x) {
        return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(x))));
    }
    static ATTNSCOPE_TARGET_INLINE T broadcast(const float* x) { return _mm256_set1_ps(*x); }
    static ATTNSCOPE_TARGET_INLINE T fma(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
    static ATTNSCOPE_TARGET_INLINE T abs(T x) {
        return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
    }
};

#include "attention/kernels/weigh.inc"

} // namespace

void avx2_weigh(const WeighBlock& block) {
    weigh_block(block);
}
void avx2_read_f16(const uint8_t* from, size_t from_stride, int64_t n, int32_t dim, float* to, size_t to_stride) {
    read_rows_f16(from, from_stride, n, dim, to, to_stride);
}

} // namespace attnscope::attention

#endif
