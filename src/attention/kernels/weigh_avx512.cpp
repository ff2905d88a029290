// Weighted sums of V, sixteen dimensions a register.
#include "attention/kernels/weigh_kernels.h"
#include "attention/numbers.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header names registers that it leaves undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <algorithm>

#define ATTNSCOPE_TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
#define ATTNSCOPE_TARGET_INLINE __attribute__((target("avx512f,avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

struct Lanes {
    using T = __m512;
    static constexpr int width = 16;
    static constexpr int registers = 2;
    static constexpr int max_rows = 6;
    static ATTNSCOPE_TARGET_INLINE T load(const float* x) { return _mm512_load_ps(x); }
    static ATTNSCOPE_TARGET_INLINE void store(float* to, T x) { _mm512_store_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE void storeu(float* to, T x) { _mm512_storeu_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE T load_f16(const uint8_t* x) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(static_cast<const void*>(x))));
    }
    static ATTNSCOPE_TARGET_INLINE T broadcast(const float* x) { return _mm512_set1_ps(*x); }
    static ATTNSCOPE_TARGET_INLINE T fma(T a, T b, T c) { return _mm512_fmadd_ps(a, b, c); }
    static ATTNSCOPE_TARGET_INLINE T abs(T x) {
        return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
    }
};

#include "attention/kernels/weigh.inc"

} // namespace

void avx512_weigh(const WeighBlock& block) {
    weigh_block(block);
}
void avx512_read_f16(const uint8_t* from, size_t from_stride, int64_t n, int32_t dim, float* to, size_t to_stride) {
    read_rows_f16(from, from_stride, n, dim, to, to_stride);
}

} // namespace attnscope::attention

#endif
