// Keys in tiles, sixteen columns a register.
#include "attention/kernels/tiles.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header names registers that it leaves undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include "attention/kernels/keys_avx512.h"

#include <type_traits>

#define ATTNSCOPE_TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
#define ATTNSCOPE_TARGET_INLINE __attribute__((target("avx512f,avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

struct Lanes {
    using T = __m512;
    struct D {
        __m512d low, high;
    };
    static constexpr int32_t width = 16;
    static constexpr int32_t max_heads = 4; // four sums each: sixteen of the 32 registers, and what waits to be added
    static ATTNSCOPE_TARGET_INLINE T zero() { return _mm512_setzero_ps(); }
    static ATTNSCOPE_TARGET_INLINE T broadcast(const float* x) { return _mm512_set1_ps(*x); }
    static ATTNSCOPE_TARGET_INLINE T multiply(T a, T b) { return _mm512_mul_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T fma(T a, T b, T c) { return _mm512_fmadd_ps(a, b, c); }
    static ATTNSCOPE_TARGET_INLINE T add(T a, T b) { return _mm512_add_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE void store(float* to, T x) { _mm512_storeu_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE __m256 upper(T x) {
        return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
    }
    static ATTNSCOPE_TARGET_INLINE D widen(T x) {
        return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(upper(x))};
    }
    static ATTNSCOPE_TARGET_INLINE D add(D a, T x) {
        const D b = widen(x);
        return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
    }
    static ATTNSCOPE_TARGET_INLINE T narrow(D x) {
        const __m512d low = _mm512_castps_pd(_mm512_castps256_ps512(_mm512_cvtpd_ps(x.low)));
        const __m256d high = _mm256_castps_pd(_mm512_cvtpd_ps(x.high));
        return _mm512_castpd_ps(_mm512_insertf64x4(low, high, 1));
    }
};

#include "attention/kernels/tiles.inc"

// The orders of kernels_avx512.cpp.
using Single = TileOrder<16, 4, Pairs::every_other>;
using SingleBf16 = TileOrder<16, 2, Pairs::every_other, true>;
using Batched = TileOrder<16, 1, Pairs::every_other>;

} // namespace

void avx512_tiles_f16(const TileTask& task) {
    tiles<F16Keys, Single, Batched>(task);
}
void avx512_tiles_bf16(const TileTask& task) {
    tiles<Bf16Keys, SingleBf16, Batched>(task);
}
void avx512_tiles_f32(const TileTask& task) {
    tiles<F32Keys, Single, Batched>(task);
}

} // namespace attnscope::attention

#endif
