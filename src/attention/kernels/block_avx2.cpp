// Blocks of queries, eight columns a register.
#include "attention/kernels/block.h"
#include "attention/kernels/simd.h"
#include "attention/numbers.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#define ATTNSCOPE_TARGET __attribute__((target("avx2,fma,f16c")))
#define ATTNSCOPE_TARGET_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

struct Lanes {
    using T = __m256;
    static constexpr int width = 8;
    static constexpr int queries = 6;
    static constexpr int registers = 2;
    static ATTNSCOPE_TARGET_INLINE T zero() { return _mm256_setzero_ps(); }
    static ATTNSCOPE_TARGET_INLINE T load(const float* x) { return _mm256_load_ps(x); }
    static ATTNSCOPE_TARGET_INLINE T loadu(const float* x) { return _mm256_loadu_ps(x); }
    static ATTNSCOPE_TARGET_INLINE void store(float* to, T x) { _mm256_store_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE void storeu(float* to, T x) { _mm256_storeu_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE T broadcast(const float* x) { return _mm256_broadcast_ss(x); }
    static ATTNSCOPE_TARGET_INLINE T set(float x) { return _mm256_set1_ps(x); }
    static ATTNSCOPE_TARGET_INLINE T fma(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
    static ATTNSCOPE_TARGET_INLINE T mul(T a, T b) { return _mm256_mul_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T sub(T a, T b) { return _mm256_sub_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T add(T a, T b) { return _mm256_add_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T max(T a, T b) { return _mm256_max_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T round(T x) {
        return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    static ATTNSCOPE_TARGET_INLINE T power(T n) {
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
    }
    static ATTNSCOPE_TARGET_INLINE T keep(T value, T x, T least) {
        return _mm256_andnot_ps(_mm256_cmp_ps(x, least, _CMP_LT_OQ), value);
    }
    static ATTNSCOPE_TARGET_INLINE float total(T x) {
        alignas(32) float lane[8];
        _mm256_store_ps(lane, x);
        return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
    static ATTNSCOPE_TARGET_INLINE float largest(T x) {
        alignas(32) float lane[8];
        _mm256_store_ps(lane, x);
        return *std::max_element(lane, lane + 8);
    }
    static ATTNSCOPE_TARGET_INLINE T load_some(const float* x, int64_t n, float fill) {
        alignas(32) float lane[8] = {fill, fill, fill, fill, fill, fill, fill, fill};
        std::copy_n(x, n, lane);
        return _mm256_load_ps(lane);
    }
    static ATTNSCOPE_TARGET_INLINE void store_some(float* to, int64_t n, T x) {
        alignas(32) float lane[8];
        _mm256_store_ps(lane, x);
        std::copy_n(lane, n, to);
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

#include "attention/kernels/block.inc"

} // namespace

const BlockKernels* avx2_block_kernels() {
    static constexpr BlockKernels kernels{
        "avx2",           Lanes::queries, block_dots<F16Keys>, block_dots<Bf16Keys>, block_dots<F32Keys>,
        block_numerators, block_fold,     block_scale};
    return avx2_kernels() ? &kernels : nullptr;
}

} // namespace attnscope::attention

#else

namespace attnscope::attention {
const BlockKernels* avx2_block_kernels() {
    return nullptr;
}
} // namespace attnscope::attention

#endif
