// Keys in tiles, eight columns a register.
#include "attention/kernels/tiles.h"
#include "attention/numbers.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <type_traits>

#define ATTNSCOPE_TARGET __attribute__((target("avx2,fma,f16c")))
#define ATTNSCOPE_TARGET_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

struct Lanes {
    using T = __m256;
    struct D {
        __m256d low, high;
    };
    static constexpr int32_t width = 8;
    static constexpr int32_t max_heads = 3; // four sums each: twelve of the sixteen registers
    static ATTNSCOPE_TARGET_INLINE T zero() { return _mm256_setzero_ps(); }
    static ATTNSCOPE_TARGET_INLINE T broadcast(const float* x) { return _mm256_broadcast_ss(x); }
    static ATTNSCOPE_TARGET_INLINE T multiply(T a, T b) { return _mm256_mul_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T fma(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
    static ATTNSCOPE_TARGET_INLINE T add(T a, T b) { return _mm256_add_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE void store(float* to, T x) { _mm256_storeu_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE D widen(T x) {
        return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
    }
    static ATTNSCOPE_TARGET_INLINE D add(D a, T x) {
        const D b = widen(x);
        return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
    }
    static ATTNSCOPE_TARGET_INLINE T narrow(D x) {
        return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(x.low)), _mm256_cvtpd_ps(x.high), 1);
    }
};

ATTNSCOPE_TARGET_INLINE __m128i load_128(const uint8_t* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(p)));
}
struct F16Keys : F16Elements {
    static ATTNSCOPE_TARGET_INLINE __m256 load(const uint8_t* p) { return _mm256_cvtph_ps(load_128(p)); }
};
struct Bf16Keys : Bf16Elements {
    static ATTNSCOPE_TARGET_INLINE __m256 load(const uint8_t* p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
    }
};
struct F32Keys : F32Elements {
    static ATTNSCOPE_TARGET_INLINE __m256 load(const uint8_t* p) {
        return _mm256_loadu_ps(static_cast<const float*>(static_cast<const void*>(p)));
    }
};

#include "attention/kernels/tiles.inc"

// The orders of kernels_avx2.cpp.
using Single = TileOrder<8, 4, Pairs::neighbours>;
using SingleBf16 = TileOrder<8, 4, Pairs::every_other>;
using Batched = TileOrder<8, 1, Pairs::every_other>;

} // namespace

void avx2_tiles_f16(const TileTask& task) {
    tiles<F16Keys, Single, Batched>(task);
}
void avx2_tiles_bf16(const TileTask& task) {
    tiles<Bf16Keys, SingleBf16, Batched>(task);
}
void avx2_tiles_f32(const TileTask& task) {
    tiles<F32Keys, Single, Batched>(task);
}

} // namespace attnscope::attention

#endif
