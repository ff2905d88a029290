// Blocks of queries, sixteen columns a register.
#include "attention/kernels/block.h"
#include "attention/kernels/simd.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header names registers that it leaves undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include "attention/kernels/keys_avx512.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#define ATTNSCOPE_TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
#define ATTNSCOPE_TARGET_INLINE __attribute__((target("avx512f,avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

struct Lanes {
    using T = __m512;
    static constexpr int width = 16;
    static constexpr int queries = 12;
    static constexpr int registers = 2;
    static ATTNSCOPE_TARGET_INLINE T zero() { return _mm512_setzero_ps(); }
    static ATTNSCOPE_TARGET_INLINE T load(const float* x) { return _mm512_load_ps(x); }
    static ATTNSCOPE_TARGET_INLINE T loadu(const float* x) { return _mm512_loadu_ps(x); }
    static ATTNSCOPE_TARGET_INLINE void store(float* to, T x) { _mm512_store_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE void storeu(float* to, T x) { _mm512_storeu_ps(to, x); }
    static ATTNSCOPE_TARGET_INLINE T broadcast(const float* x) { return _mm512_set1_ps(*x); }
    static ATTNSCOPE_TARGET_INLINE T set(float x) { return _mm512_set1_ps(x); }
    static ATTNSCOPE_TARGET_INLINE T fma(T a, T b, T c) { return _mm512_fmadd_ps(a, b, c); }
    static ATTNSCOPE_TARGET_INLINE T mul(T a, T b) { return _mm512_mul_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T sub(T a, T b) { return _mm512_sub_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T add(T a, T b) { return _mm512_add_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T max(T a, T b) { return _mm512_max_ps(a, b); }
    static ATTNSCOPE_TARGET_INLINE T round(T x) {
        return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    static ATTNSCOPE_TARGET_INLINE T power(T n) {
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
    }
    static ATTNSCOPE_TARGET_INLINE T keep(T value, T x, T least) {
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ), value);
    }
    static ATTNSCOPE_TARGET_INLINE float total(T x) { return _mm512_reduce_add_ps(x); }
    static ATTNSCOPE_TARGET_INLINE float largest(T x) { return _mm512_reduce_max_ps(x); }
    static ATTNSCOPE_TARGET_INLINE __mmask16 some(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
    static ATTNSCOPE_TARGET_INLINE T load_some(const float* x, int64_t n, float fill) {
        return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), some(n), x);
    }
    static ATTNSCOPE_TARGET_INLINE void store_some(float* to, int64_t n, T x) { _mm512_mask_storeu_ps(to, some(n), x); }
};

#include "attention/kernels/block.inc"

} // namespace

const BlockKernels* avx512_block_kernels() {
    static constexpr BlockKernels kernels{
        "avx512",         Lanes::queries, block_dots<F16Keys>, block_dots<Bf16Keys>, block_dots<F32Keys>,
        block_numerators, block_fold,     block_scale};
    return avx512_kernels() ? &kernels : nullptr;
}

} // namespace attnscope::attention

#else

namespace attnscope::attention {
const BlockKernels* avx512_block_kernels() {
    return nullptr;
}
} // namespace attnscope::attention

#endif
