// Parts of rows, sixteen numbers a register.
#include "attention/kernels/parts_avx512.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header names registers that it leaves undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include "attention/kernels/keys_avx512.h"

#include <algorithm>
#include <limits>

#define ATTNSCOPE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define ATTNSCOPE_TARGET_INLINE                                                                                        \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

constexpr int64_t block = 16; // keys multiplied before the next heads come to them

// Of a and b each: the sums of lanes i and i + 8; a's in the lower half.
ATTNSCOPE_TARGET_INLINE __m512 halves(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
// Of what halves() gave for a, b and c, d: four lanes of each, one quarter each.
ATTNSCOPE_TARGET_INLINE __m512 quarters(__m512 ab, __m512 cd) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}
// In every quarter: two lanes of x's, two of y's.
ATTNSCOPE_TARGET_INLINE __m512 pairs(__m512 x, __m512 y) {
    const __m512d a = _mm512_castps_pd(x), b = _mm512_castps_pd(y);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
}
ATTNSCOPE_TARGET_INLINE __m512 singles(__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xdd));
}
// Lane i: the sum of the lanes of v[i].
ATTNSCOPE_TARGET_INLINE __m512 sums_of_16(const __m512* v) {
    __m512 four[4];
    for (int i = 0; i < 4; ++i) // v[i], v[i + 4], v[i + 8], v[i + 12]: quarter by quarter
        four[i] = quarters(halves(v[i], v[i + 4]), halves(v[i + 8], v[i + 12]));
    return singles(pairs(four[0], four[1]), pairs(four[2], four[3]));
}
ATTNSCOPE_TARGET_INLINE __m256 sums_of_8(const __m512* v) {
    const __m512 x = quarters(halves(v[0], v[1]), halves(v[2], v[3])),
                 y = quarters(halves(v[4], v[5]), halves(v[6], v[7]));
    const __m512 p = pairs(x, y);
    const __m512 s = singles(p, p); // in quarter i: those of v[i] and v[i + 4]
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps256(_mm512_permutexvar_ps(order, s));
}

// R keys from row `row` on against H heads; all sums stay in registers.
template <class Keys, int R, int H>
ATTNSCOPE_TARGET_INLINE void multiply_keys(const DotTask& t, int32_t head, int64_t row) {
    const uint8_t* k = t.k + static_cast<size_t>(row) * t.k_stride;
    const float* q = t.q + static_cast<size_t>(head) * t.q_stride;
    __m512 sum[H * R];
    for (auto& s : sum) s = _mm512_setzero_ps();
    for (int32_t i = 0; i < t.head_dim; i += 16) {
        __m512 x[H];
        for (int h = 0; h < H; ++h) x[h] = _mm512_load_ps(q + static_cast<size_t>(h) * t.q_stride + i);
        const uint8_t* part = k + static_cast<size_t>(i) * Keys::size;
        for (int r = 0; r < R; ++r) {
            const __m512 key = Keys::load(part + static_cast<size_t>(r) * t.k_stride);
            for (int h = 0; h < H; ++h) sum[h * R + r] = _mm512_fmadd_ps(key, x[h], sum[h * R + r]);
        }
    }
    float* out = t.out + static_cast<size_t>(head) * t.out_stride + static_cast<size_t>(row);
    if constexpr (R == 16) {
        _mm512_storeu_ps(out, sums_of_16(sum));
    } else if constexpr (R == 8) {
        if constexpr (H >= 2) {
            const __m512 two = sums_of_16(sum);
            _mm256_storeu_ps(out, _mm512_castps512_ps256(two));
            _mm256_storeu_ps(out + t.out_stride, _mm512_extractf32x8_ps(two, 1));
        }
        if constexpr (H == 3) _mm256_storeu_ps(out + 2 * t.out_stride, sums_of_8(sum + 16));
    } else {
        static_assert(R == 4 && H == 4);
        const __m512 all = sums_of_16(sum);
        _mm_storeu_ps(out, _mm512_castps512_ps128(all));
        _mm_storeu_ps(out + t.out_stride, _mm512_extractf32x4_ps(all, 1));
        _mm_storeu_ps(out + 2 * t.out_stride, _mm512_extractf32x4_ps(all, 2));
        _mm_storeu_ps(out + 3 * t.out_stride, _mm512_extractf32x4_ps(all, 3));
    }
}

template <class Keys> ATTNSCOPE_TARGET void multiply_block(const DotTask& t, int64_t row) {
    const int32_t turns = (t.n_q + 3) / 4;
    for (int32_t turn = 0; turn < turns; ++turn) {
        const int32_t head = t.n_q * turn / turns;
        switch (t.n_q * (turn + 1) / turns - head) {
        case 1: multiply_keys<Keys, 16, 1>(t, head, row); break;
        case 2:
            for (int64_t r = row; r < row + block; r += 8) multiply_keys<Keys, 8, 2>(t, head, r);
            break;
        case 3:
            for (int64_t r = row; r < row + block; r += 8) multiply_keys<Keys, 8, 3>(t, head, r);
            break;
        default:
            for (int64_t r = row; r < row + block; r += 4) multiply_keys<Keys, 4, 4>(t, head, r);
        }
    }
}

template <class Keys> ATTNSCOPE_TARGET void any_dots(const DotTask& t) {
    if (t.n < block) {
        for (int64_t r = 0; r < t.n; ++r) {
            for (int32_t h = 0; h < t.n_q; ++h) {
                __m512 sum = _mm512_setzero_ps();
                for (int32_t i = 0; i < t.head_dim; i += 16) {
                    const __m512 key =
                        Keys::load(t.k + static_cast<size_t>(r) * t.k_stride + static_cast<size_t>(i) * Keys::size);
                    sum = _mm512_fmadd_ps(key, _mm512_load_ps(t.q + static_cast<size_t>(h) * t.q_stride + i), sum);
                }
                t.out[static_cast<size_t>(h) * t.out_stride + static_cast<size_t>(r)] = _mm512_reduce_add_ps(sum);
            }
        }
        return;
    }
    constexpr size_t line = 64, near = size_t(256) << 10; // what lies in a core's second cache need not be asked for
    const size_t bytes =
        static_cast<size_t>(t.n) * t.k_stride > near ? static_cast<size_t>(t.head_dim) * Keys::size : 0;
    for (int64_t row = 0; row < t.n; row += block) {
        row = std::min(row, t.n - block); // the last block repeats some of the one before it
        for (int64_t r = row + block; bytes > 0 && r < std::min(row + 2 * block, t.n); ++r) {
            for (size_t b = 0; b < bytes; b += line)
                __builtin_prefetch(t.k + static_cast<size_t>(r) * t.k_stride + b, 0, 3);
        }
        multiply_block<Keys>(t, row);
    }
}

// As exp8 in row_arithmetic_avx2.cpp, for x <= 0 or a little above.
ATTNSCOPE_TARGET_INLINE __m512 exp16(__m512 x) {
    const __m512 lowest = _mm512_set1_ps(-87.33654f);                    // ln of 2^-126
    const __mmask16 normal = _mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ); // NaN stays
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_maskz_scalef_ps(normal, p, n);
}

ATTNSCOPE_TARGET_INLINE __mmask16 lanes(int64_t n) { // the first n of sixteen
    return static_cast<__mmask16>(n >= 16 ? 0xffff : (1 << n) - 1);
}

ATTNSCOPE_TARGET_INLINE __m512d lower(__m512 x) {
    return _mm512_cvtps_pd(_mm512_castps512_ps256(x));
}
ATTNSCOPE_TARGET_INLINE __m512d upper(__m512 x) {
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
}

} // namespace

ATTNSCOPE_TARGET void avx512_any_dots_f16(const DotTask& task) {
    any_dots<F16Keys>(task);
}
ATTNSCOPE_TARGET void avx512_any_dots_bf16(const DotTask& task) {
    any_dots<Bf16Keys>(task);
}
ATTNSCOPE_TARGET void avx512_any_dots_f32(const DotTask& task) {
    any_dots<F32Keys>(task);
}

ATTNSCOPE_TARGET double avx512_numerators(float* x, int64_t n, float scale, float* max) {
    const __m512 factor = _mm512_set1_ps(scale), lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 top = lowest;
    for (int64_t i = 0; i < n; i += 16) { // max returns its second operand when either is NaN
        const __mmask16 some = lanes(n - i);
        top = _mm512_max_ps(_mm512_mask_mul_ps(lowest, some, _mm512_maskz_loadu_ps(some, x + i), factor), top);
    }
    *max = _mm512_reduce_max_ps(top);
    const __m512 m = _mm512_set1_ps(*max);
    constexpr int64_t strip = 256; // so many are added in float32
    double sum = 0;
    for (int64_t begin = 0; begin < n; begin += strip) {
        const int64_t end = std::min(begin + strip, n);
        __m512 s = _mm512_setzero_ps();
        for (int64_t i = begin; i < end; i += 16) {
            const __mmask16 some = lanes(end - i);
            const __m512 e = exp16(_mm512_fmsub_ps(_mm512_maskz_loadu_ps(some, x + i), factor, m));
            _mm512_mask_storeu_ps(x + i, some, e);
            s = _mm512_mask_add_ps(s, some, s, e);
        }
        sum += _mm512_reduce_add_pd(_mm512_add_pd(lower(s), upper(s)));
    }
    return sum;
}

ATTNSCOPE_TARGET void avx512_add_rows(const float* rows, size_t stride, const float* factors, int32_t n_rows, int64_t n,
                                      double* sums) {
    for (int64_t j = 0; j < n; j += 16) {
        const __mmask16 some = lanes(n - j);
        __m512 s = _mm512_setzero_ps();
        const float* row = rows + j;
        for (int32_t r = 0; r < n_rows; ++r, row += stride)
            s = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(some, row), _mm512_set1_ps(factors[r]), s);
        const auto low = static_cast<__mmask8>(some), high = static_cast<__mmask8>(some >> 8);
        _mm512_mask_storeu_pd(sums + j, low, _mm512_add_pd(_mm512_maskz_loadu_pd(low, sums + j), lower(s)));
        _mm512_mask_storeu_pd(sums + j + 8, high, _mm512_add_pd(_mm512_maskz_loadu_pd(high, sums + j + 8), upper(s)));
    }
}

} // namespace attnscope::attention

#endif
