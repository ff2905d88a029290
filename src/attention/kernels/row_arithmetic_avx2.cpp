// What is done with a row of scores, eight numbers a register.
#include "attention/kernels/row_arithmetic.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <limits>

#define ATTNSCOPE_AVX2 __attribute__((target("avx2,fma,f16c")))
#define ATTNSCOPE_AVX2_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

// e^x, after Cephes' expf (Moshier): x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial of degree 7 for e^r, 2^n
// by its exponent bits. Within 2 ulp; below the smallest normal number exactly 0; saturates at e^88; NaN
// stays NaN.
ATTNSCOPE_AVX2_INLINE __m256 exp8(__m256 x) {
    const __m256 lowest = _mm256_set1_ps(-87.33654f); // ln of 2^-126
    const __m256 underflow = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
    // min and max return their second operand when either is NaN
    x = _mm256_max_ps(lowest, _mm256_min_ps(_mm256_set1_ps(88.0f), x));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(underflow, _mm256_mul_ps(p, _mm256_castsi256_ps(exponent)));
}

// After Cephes' tanhf: a polynomial where 1 - 2 / (e^2x + 1) would lose digits.
ATTNSCOPE_AVX2_INLINE __m256 tanh8(__m256 x) {
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
    const __m256 a = _mm256_xor_ps(x, sign);
    const __m256 z = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(-5.70498872745e-3f);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(2.06390887954e-2f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-5.37397155531e-2f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.33314422036e-1f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-3.33332819422e-1f));
    p = _mm256_fmadd_ps(_mm256_mul_ps(p, z), x, x);
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 two = _mm256_set1_ps(2.0f);
    const __m256 far = _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(exp8(_mm256_mul_ps(two, a)), one)));
    return _mm256_blendv_ps(_mm256_or_ps(far, sign), p, _mm256_cmp_ps(a, _mm256_set1_ps(0.625f), _CMP_LT_OQ));
}

// ln x for normal positive x, after Cephes' logf.
ATTNSCOPE_AVX2_INLINE __m256 log8(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    __m256 e = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(126)));
    const __m256i half = _mm256_set1_epi32(0x3f000000);
    __m256 m = _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff)), half));
    // m in [0.5, 1): move what is below sqrt(1/2) up by one power of two
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 low = _mm256_cmp_ps(m, _mm256_set1_ps(0.707106781f), _CMP_LT_OQ);
    e = _mm256_sub_ps(e, _mm256_and_ps(low, one));
    m = _mm256_sub_ps(_mm256_add_ps(m, _mm256_and_ps(low, m)), one);
    const __m256 z = _mm256_mul_ps(m, m);
    __m256 p = _mm256_set1_ps(7.0376836292e-2f);
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-1.1514610310e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(1.1676998740e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-1.2420140846e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(1.4249322787e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-1.6668057665e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(2.0000714765e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-2.4999993993e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(3.3333331174e-1f));
    p = _mm256_mul_ps(p, _mm256_mul_ps(m, z));
    p = _mm256_fmadd_ps(e, _mm256_set1_ps(-2.12194440e-4f), p);
    p = _mm256_fnmadd_ps(_mm256_set1_ps(0.5f), z, p);
    return _mm256_fmadd_ps(e, _mm256_set1_ps(0.693359375f), _mm256_add_ps(m, p));
}

// The last n (1..7) numbers of an array, as a full register with `fill` behind them.
ATTNSCOPE_AVX2_INLINE __m256 load_some(const float* x, int64_t n, float fill) {
    alignas(32) float lane[8] = {fill, fill, fill, fill, fill, fill, fill, fill};
    for (int64_t i = 0; i < n; ++i) lane[i] = x[i];
    return _mm256_load_ps(lane);
}

ATTNSCOPE_AVX2_INLINE void store_some(float* x, int64_t n, __m256 v) {
    alignas(32) float lane[8];
    _mm256_store_ps(lane, v);
    for (int64_t i = 0; i < n; ++i) x[i] = lane[i];
}

struct Score {
    __m256 scale, softcap, post_scale;
    bool capped;
    ATTNSCOPE_AVX2_INLINE __m256 operator()(__m256 x) const {
        x = _mm256_mul_ps(x, scale);
        if (capped) x = _mm256_mul_ps(softcap, tanh8(_mm256_div_ps(x, softcap)));
        return _mm256_mul_ps(x, post_scale);
    }
};

ATTNSCOPE_AVX2_INLINE void add_wide(__m256d& low, __m256d& high, __m256 v) {
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}

ATTNSCOPE_AVX2_INLINE double total(__m256d low, __m256d high) {
    alignas(32) double lane[4];
    _mm256_store_pd(lane, _mm256_add_pd(low, high));
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

// p ln p; exactly 0 where p is not a normal positive number; NaN stays.
ATTNSCOPE_AVX2_INLINE __m256 p_log_p(__m256 p) {
    const __m256 tiny = _mm256_cmp_ps(p, _mm256_set1_ps(std::numeric_limits<float>::min()), _CMP_LT_OQ);
    return _mm256_andnot_ps(tiny, _mm256_mul_ps(p, log8(p)));
}

} // namespace

ATTNSCOPE_AVX2 float avx2_scores(float* x, int64_t n, float scale, float softcap, float post_scale) {
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    const Score score{_mm256_set1_ps(scale), _mm256_set1_ps(softcap), _mm256_set1_ps(post_scale), softcap > 0};
    __m256 max = _mm256_set1_ps(lowest);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 s = score(_mm256_loadu_ps(x + i));
        _mm256_storeu_ps(x + i, s);
        max = _mm256_max_ps(s, max); // keeps max where s is NaN
    }
    alignas(32) float lane[8];
    _mm256_store_ps(lane, max);
    float top = lowest;
    for (float l : lane) top = std::max(top, l);
    if (i < n) {
        store_some(x + i, n - i, score(load_some(x + i, n - i, 0.0f)));
        for (; i < n; ++i) top = x[i] > top ? x[i] : top;
    }
    return top;
}

ATTNSCOPE_AVX2 double avx2_exponentials(float* x, int64_t n, float max) {
    const __m256 m = _mm256_set1_ps(max);
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), m));
        _mm256_storeu_ps(x + i, e);
        add_wide(low, high, e);
    }
    double sum = total(low, high);
    if (i < n) {
        store_some(x + i, n - i, exp8(_mm256_sub_ps(load_some(x + i, n - i, 0.0f), m)));
        for (; i < n; ++i) sum += static_cast<double>(x[i]);
    }
    return sum;
}

ATTNSCOPE_AVX2 void avx2_multiply(float* x, int64_t n, float factor) {
    const __m256 f = _mm256_set1_ps(factor);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), f));
    for (; i < n; ++i) x[i] *= factor;
}

ATTNSCOPE_AVX2 double avx2_entropy(const float* p, int64_t n) {
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) add_wide(low, high, p_log_p(_mm256_loadu_ps(p + i)));
    if (i < n) add_wide(low, high, p_log_p(load_some(p + i, n - i, 0.0f)));
    return 0.0 - total(low, high);
}

ATTNSCOPE_AVX2 void avx2_add(float* sum, const float* x, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(sum + i, _mm256_add_ps(_mm256_loadu_ps(sum + i), _mm256_loadu_ps(x + i)));
    for (; i < n; ++i) sum[i] += x[i];
}

ATTNSCOPE_AVX2 void avx2_largest(float* max, const float* x, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 m = _mm256_loadu_ps(max + i);
        const __m256 v = _mm256_loadu_ps(x + i);
        // max_ps returns its second operand when either is NaN: v stays; a NaN in m is put back
        const __m256 top = _mm256_max_ps(m, v);
        _mm256_storeu_ps(max + i, _mm256_blendv_ps(top, m, _mm256_cmp_ps(m, m, _CMP_UNORD_Q)));
    }
    for (; i < n; ++i) max[i] = !(x[i] <= max[i]) && max[i] == max[i] ? x[i] : max[i];
}

} // namespace attnscope::attention

#endif
