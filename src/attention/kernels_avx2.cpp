// The kernels for x86-64 with AVX2, FMA and F16C. Only these functions are compiled for those instructions
// (by function attributes), so the library still starts on a machine without them.
#include "attention/numbers.h"
#include "attention/prefetch.h"
#include "attention/simd.h"
#include "attention/tiles.h"
#include "attention/weigh_kernels.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#define ATTNSCOPE_AVX2 __attribute__((target("avx2,fma,f16c")))
#define ATTNSCOPE_AVX2_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace attnscope {

namespace {

ATTNSCOPE_AVX2_INLINE __m128i load_128(const uint8_t* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(p)));
}

// Eight elements from element i on, as float32.
struct F16Keys : F16Elements {
    static ATTNSCOPE_AVX2_INLINE __m256 load(const uint8_t* p, int32_t i) {
        return _mm256_cvtph_ps(load_128(p + static_cast<size_t>(i) * size));
    }
};
struct Bf16Keys : Bf16Elements {
    static ATTNSCOPE_AVX2_INLINE __m256 load(const uint8_t* p, int32_t i) {
        const __m256i wide = _mm256_cvtepu16_epi32(load_128(p + static_cast<size_t>(i) * size));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
};
struct F32Keys : F32Elements {
    static ATTNSCOPE_AVX2_INLINE __m256 load(const uint8_t* p, int32_t i) {
        return _mm256_loadu_ps(
            static_cast<const float*>(static_cast<const void*>(p + static_cast<size_t>(i) * size)));
    }
};

// The engine adds the products of one score in two orders, and rows equal its own only when they are added in the
// same one: float32 sums of some hundred products differ in the last digits, which large scores turn into 1e-6.
//   single       ggml_vec_dot_f16 and _f32: four running sums of 8 lanes, 32 elements a step; for tokens decoded alone
//   single_bf16  ggml_vec_dot_bf16: the same, but its lanes are added in batched's order
//   batched      tinyBLAS in llamafile's sgemm: one running sum of 8 lanes; for tokens decoded together
enum class Order { single, single_bf16, batched };

// The sums of the lanes of a, b, c and d: first the halves, then neighbours (single) or every other one (the others).
template <Order order> ATTNSCOPE_AVX2_INLINE __m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m128 ta = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 tb = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 tc = _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
    const __m128 td = _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
    if constexpr (order == Order::single) return _mm_hadd_ps(_mm_hadd_ps(ta, tb), _mm_hadd_ps(tc, td));
    const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(ta, tb), _mm_unpackhi_ps(ta, tb)); // a02 b02 a13 b13
    const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(tc, td), _mm_unpackhi_ps(tc, td));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

// R keys against H query heads, everything in flight held in registers: each element of K is loaded and
// converted once for all H heads.
template <class Keys, int R, int H, Order order> ATTNSCOPE_AVX2_INLINE void dot_tile(const DotTask& t, int64_t row) {
    constexpr int n_sums = R * H;
    constexpr int n_padded = (n_sums + 3) / 4 * 4;
    constexpr int parts = order == Order::batched ? 1 : 4;
    constexpr int step = 8 * parts;
    const uint8_t* k = t.k + static_cast<size_t>(row) * t.k_stride;
    __m256 sum[parts][n_padded];
    for (auto& part : sum) {
        for (auto& s : part)
            s = _mm256_setzero_ps();
    }
    int32_t i = 0;
    for (; i + step <= t.head_dim; i += step) {
        for (int part = 0; part < parts; ++part) {
            __m256 key[R];
            for (int r = 0; r < R; ++r)
                key[r] = Keys::load(k + static_cast<size_t>(r) * t.k_stride, i + 8 * part);
            for (int h = 0; h < H; ++h) {
                const __m256 q = _mm256_loadu_ps(t.q + static_cast<size_t>(h) * t.q_stride + i + 8 * part);
                for (int r = 0; r < R; ++r)
                    sum[part][h * R + r] = _mm256_fmadd_ps(key[r], q, sum[part][h * R + r]);
            }
        }
    }
    if constexpr (order != Order::batched) {
        for (int s = 0; s < n_sums; ++s) {
            sum[0][s] = _mm256_add_ps(_mm256_add_ps(sum[0][s], sum[2][s]), _mm256_add_ps(sum[1][s], sum[3][s]));
        }
    }
    float total[n_padded];
    for (int s = 0; s < n_padded; s += 4) {
        _mm_storeu_ps(total + s, sum_lanes<order>(sum[0][s], sum[0][s + 1], sum[0][s + 2], sum[0][s + 3]));
    }
    if (i < t.head_dim) { // what is left is added one by one, in double precision, as ggml does
        for (int h = 0; h < H; ++h) {
            for (int r = 0; r < R; ++r) {
                double rest = static_cast<double>(total[h * R + r]);
                for (int32_t j = i; j < t.head_dim; ++j) {
                    const float q = t.q[static_cast<size_t>(h) * t.q_stride + static_cast<size_t>(j)];
                    rest += static_cast<double>(Keys::at(k + static_cast<size_t>(r) * t.k_stride, j) * q);
                }
                total[h * R + r] = static_cast<float>(rest);
            }
        }
    }
    for (int h = 0; h < H; ++h) {
        for (int r = 0; r < R; ++r)
            t.out[static_cast<size_t>(h) * t.out_stride + static_cast<size_t>(row + r)] = total[h * R + r];
    }
}

template <class Keys, int R, int H, Order order> ATTNSCOPE_AVX2 void dots_of(const DotTask& t) {
    int64_t row = 0;
    for (; row + R <= t.n; row += R) {
        prefetch_keys(t, Keys::size, row, R);
        dot_tile<Keys, R, H, order>(t, row);
    }
    for (; row < t.n; ++row)
        dot_tile<Keys, 1, H, order>(t, row);
}

// Tiles of at most sixteen registers: R * H sums times the running sums of the order, R keys and one query.
template <class Keys, Order order> void dots_narrow(const DotTask& t) {
    if constexpr (order != Order::batched) { // four sums each
        switch (t.n_q) {
        case 1:
            return dots_of<Keys, 3, 1, order>(t);
        case 2:
            return dots_of<Keys, 1, 2, order>(t);
        case 3:
            return dots_of<Keys, 1, 3, order>(t);
        default:
            return;
        }
    }
    switch (t.n_q) {
    case 1:
        return dots_of<Keys, 8, 1, order>(t);
    case 2:
        return dots_of<Keys, 4, 2, order>(t);
    case 3:
        return dots_of<Keys, 3, 3, order>(t);
    case 4:
        return dots_of<Keys, 3, 4, order>(t);
    case 5:
        return dots_of<Keys, 2, 5, order>(t);
    case 6:
        return dots_of<Keys, 2, 6, order>(t);
    case 7:
        return dots_of<Keys, 1, 7, order>(t);
    default:
        return;
    }
}

template <class Keys, Order order> ATTNSCOPE_AVX2 void dots_ordered(const DotTask& t) {
    constexpr int32_t max_narrow = order == Order::batched ? 7 : 3;
    if (t.n_q <= max_narrow) return dots_narrow<Keys, order>(t);
    // More heads than registers: convert some keys once, keep them in the first-level cache, and let the
    // heads come to them in turns.
    constexpr size_t scratch_floats = 4096;
    alignas(64) float scratch[scratch_floats];
    const auto d = static_cast<size_t>(t.head_dim);
    const auto keys_at_once = static_cast<int64_t>(scratch_floats / d);
    const int32_t turns = (t.n_q + max_narrow - 1) / max_narrow;
    for (int64_t row = 0; row < t.n;) {
        DotTask part = t;
        part.k = t.k + static_cast<size_t>(row) * t.k_stride;
        part.n = keys_at_once > 0 ? std::min(keys_at_once, t.n - row) : t.n - row;
        const uint8_t* const k = part.k;
        const bool converted = keys_at_once > 0;
        if (converted) {
            for (int64_t r = 0; r < part.n; ++r) {
                float* to = scratch + static_cast<size_t>(r) * d;
                const uint8_t* from = k + static_cast<size_t>(r) * t.k_stride;
                int32_t i = 0;
                for (; i + 8 <= t.head_dim; i += 8)
                    _mm256_storeu_ps(to + i, Keys::load(from, i));
                for (; i < t.head_dim; ++i)
                    to[i] = Keys::at(from, i);
            }
            part.k = static_cast<const uint8_t*>(static_cast<const void*>(scratch));
            part.k_stride = d * sizeof(float);
        }
        // Each turn asks for some of the lines of the keys that are converted next.
        constexpr size_t line = 64;
        const size_t key_bytes = d * Keys::size;
        const size_t turn_bytes = (key_bytes / static_cast<size_t>(turns) + line - 1) / line * line;
        const bool more = converted && row + 2 * part.n <= t.n;
        part.ahead_stride = t.k_stride;
        for (int32_t turn = 0; turn < turns; ++turn) {
            const size_t asked = std::min(static_cast<size_t>(turn) * turn_bytes, key_bytes);
            part.ahead = converted ? k + (more ? static_cast<size_t>(part.n) * t.k_stride + asked : 0) : nullptr;
            part.ahead_bytes = more ? std::min(turn_bytes, key_bytes - asked) : 0;
            const int32_t begin = static_cast<int32_t>(int64_t{t.n_q} * turn / turns);
            const int32_t end = static_cast<int32_t>(int64_t{t.n_q} * (turn + 1) / turns);
            part.q = t.q + static_cast<size_t>(begin) * t.q_stride;
            part.n_q = end - begin;
            part.out = t.out + static_cast<size_t>(begin) * t.out_stride + static_cast<size_t>(row);
            converted ? dots_narrow<F32Keys, order>(part) : dots_narrow<Keys, order>(part);
        }
        row += part.n;
    }
}

template <class Keys, Order single> void dots(const DotTask& t) {
    // tinyBLAS takes whole registers only: for other lengths the engine uses its other kernel
    if ((t.batched || t.any_order) && t.head_dim % 8 == 0) return dots_ordered<Keys, Order::batched>(t);
    dots_ordered<Keys, single>(t);
}

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
    const __m256i exponent =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
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
    const __m256 far =
        _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(exp8(_mm256_mul_ps(two, a)), one)));
    return _mm256_blendv_ps(_mm256_or_ps(far, sign), p, _mm256_cmp_ps(a, _mm256_set1_ps(0.625f), _CMP_LT_OQ));
}

// ln x for normal positive x, after Cephes' logf.
ATTNSCOPE_AVX2_INLINE __m256 log8(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    __m256 e = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(126)));
    const __m256i half = _mm256_set1_epi32(0x3f000000);
    __m256 m =
        _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff)), half));
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
    for (int64_t i = 0; i < n; ++i)
        lane[i] = x[i];
    return _mm256_load_ps(lane);
}

ATTNSCOPE_AVX2_INLINE void store_some(float* x, int64_t n, __m256 v) {
    alignas(32) float lane[8];
    _mm256_store_ps(lane, v);
    for (int64_t i = 0; i < n; ++i)
        x[i] = lane[i];
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

ATTNSCOPE_AVX2 float scores(float* x, int64_t n, float scale, float softcap, float post_scale) {
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    const Score score{_mm256_set1_ps(scale), _mm256_set1_ps(softcap), _mm256_set1_ps(post_scale),
                      softcap > 0};
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
    for (float l : lane)
        top = std::max(top, l);
    if (i < n) {
        store_some(x + i, n - i, score(load_some(x + i, n - i, 0.0f)));
        for (; i < n; ++i)
            top = x[i] > top ? x[i] : top;
    }
    return top;
}

ATTNSCOPE_AVX2_INLINE void add_wide(__m256d& low, __m256d& high, __m256 v) {
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}

ATTNSCOPE_AVX2_INLINE double total(__m256d low, __m256d high) {
    alignas(32) double lane[4];
    _mm256_store_pd(lane, _mm256_add_pd(low, high));
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

ATTNSCOPE_AVX2 double exponentials(float* x, int64_t n, float max) {
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
        for (; i < n; ++i)
            sum += static_cast<double>(x[i]);
    }
    return sum;
}

ATTNSCOPE_AVX2 void multiply(float* x, int64_t n, float factor) {
    const __m256 f = _mm256_set1_ps(factor);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), f));
    for (; i < n; ++i)
        x[i] *= factor;
}

// p ln p; exactly 0 where p is not a normal positive number; NaN stays.
ATTNSCOPE_AVX2_INLINE __m256 p_log_p(__m256 p) {
    const __m256 tiny = _mm256_cmp_ps(p, _mm256_set1_ps(std::numeric_limits<float>::min()), _CMP_LT_OQ);
    return _mm256_andnot_ps(tiny, _mm256_mul_ps(p, log8(p)));
}

ATTNSCOPE_AVX2 double entropy(const float* p, int64_t n) {
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        add_wide(low, high, p_log_p(_mm256_loadu_ps(p + i)));
    if (i < n) add_wide(low, high, p_log_p(load_some(p + i, n - i, 0.0f)));
    return 0.0 - total(low, high);
}

ATTNSCOPE_AVX2 void add(float* sum, const float* x, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(sum + i, _mm256_add_ps(_mm256_loadu_ps(sum + i), _mm256_loadu_ps(x + i)));
    for (; i < n; ++i)
        sum[i] += x[i];
}

ATTNSCOPE_AVX2 void largest(float* max, const float* x, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 m = _mm256_loadu_ps(max + i);
        const __m256 v = _mm256_loadu_ps(x + i);
        // max_ps returns its second operand when either is NaN: v stays; a NaN in m is put back
        const __m256 top = _mm256_max_ps(m, v);
        _mm256_storeu_ps(max + i, _mm256_blendv_ps(top, m, _mm256_cmp_ps(m, m, _CMP_UNORD_Q)));
    }
    for (; i < n; ++i)
        max[i] = !(x[i] <= max[i]) && max[i] == max[i] ? x[i] : max[i];
}

// __builtin_cpu_supports knows "f16c" in GCC only. What the operating system must do for it, it does for
// AVX2.
bool has_f16c() {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

} // namespace

const RowKernels* avx2_kernels() {
    static constexpr RowKernels kernels{"avx2",
                                        dots<F16Keys, Order::single>,
                                        dots<Bf16Keys, Order::single_bf16>,
                                        dots<F32Keys, Order::single>,
                                        scores,
                                        exponentials,
                                        multiply,
                                        entropy,
                                        avx2_tiles_f16,
                                        avx2_tiles_bf16,
                                        avx2_tiles_f32,
                                        add,
                                        largest,
                                        avx2_weigh,
                                        avx2_read_f16,
                                        nullptr,
                                        nullptr};
    static const bool usable = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    return usable ? &kernels : nullptr;
}

} // namespace attnscope

#else

namespace attnscope {
const RowKernels* avx2_kernels() {
    return nullptr;
}
} // namespace attnscope

#endif
