#include "attention/kernels/weigh.h"

#include "attention/numbers.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace attnscope::attention {

namespace {

constexpr int64_t strip = 1024; // cells whose products are added in float32

// Eight running sums, so that the compiler can use vector registers without changing what is computed.
struct Partial {
    float sum[8] = {}, magnitude[8] = {}, largest[8] = {};
};

template <class Elements>
inline void along_cells(const float* row, const uint8_t* v, int64_t n, double& sum, double& magnitude, float& largest) {
    Partial p;
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
        for (int l = 0; l < 8; ++l) {
            const float x = Elements::at(v, j + l);
            const float y = row[j + l] * x;
            p.sum[l] += y;
            p.magnitude[l] += std::fabs(y);
            p.largest[l] = std::fabs(x) > p.largest[l] ? std::fabs(x) : p.largest[l];
        }
    }
    for (; j < n; ++j) {
        const float x = Elements::at(v, j);
        p.sum[0] += row[j] * x;
        p.magnitude[0] += std::fabs(row[j] * x);
        p.largest[0] = std::max(p.largest[0], std::fabs(x));
    }
    for (int l = 0; l < 8; ++l) {
        sum += static_cast<double>(p.sum[l]);
        magnitude += static_cast<double>(p.magnitude[l]);
        largest = std::max(largest, p.largest[l]);
    }
}

} // namespace

} // namespace attnscope::attention

#if defined(__x86_64__)
#include <immintrin.h>

#define ATTNSCOPE_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace attnscope::attention {
namespace {

bool has_avx2() {
    static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has; // every processor with AVX2 has F16C
}

ATTNSCOPE_AVX2 inline __m256 load_f16(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(p))));
}

ATTNSCOPE_AVX2 double add_lanes(__m256 x) {
    alignas(32) float lane[8];
    _mm256_store_ps(lane, x);
    double total = 0;
    for (const float l : lane) total += static_cast<double>(l);
    return total;
}

ATTNSCOPE_AVX2 void f16_along_cells(const float* row, const uint8_t* v, int64_t n, double& sum, double& magnitude,
                                    float& largest) {
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 s = _mm256_setzero_ps(), m = _mm256_setzero_ps(), top = _mm256_setzero_ps();
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
        const __m256 x = load_f16(v + 2 * j);
        const __m256 y = _mm256_mul_ps(x, _mm256_loadu_ps(row + j));
        s = _mm256_add_ps(s, y);
        m = _mm256_add_ps(m, _mm256_and_ps(y, no_sign));
        top = _mm256_max_ps(top, _mm256_and_ps(x, no_sign));
    }
    sum += add_lanes(s);
    magnitude += add_lanes(m);
    alignas(32) float lane[8];
    _mm256_store_ps(lane, top);
    largest = std::max(largest, *std::max_element(lane, lane + 8));
    along_cells<F16Elements>(row + j, v + 2 * j, n - j, sum, magnitude, largest);
}

// Dimensions [d, d + 32) of `n` cells, with the sums in registers.
ATTNSCOPE_AVX2 void f16_along_dims(const float* row, const uint8_t* v, size_t cell_stride, int64_t n, float* sum,
                                   float* magnitude, float* top) {
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 s[4], m[4], t[4];
    for (int i = 0; i < 4; ++i) {
        s[i] = _mm256_loadu_ps(sum + 8 * i);
        m[i] = _mm256_loadu_ps(magnitude + 8 * i);
        t[i] = _mm256_loadu_ps(top + 8 * i);
    }
    for (int64_t j = 0; j < n; ++j, v += cell_stride) {
        if (row[j] == 0.0f) continue;
        _mm_prefetch(static_cast<const char*>(static_cast<const void*>(v + 16 * cell_stride)), _MM_HINT_T0);
        const __m256 w = _mm256_set1_ps(row[j]);
        for (int i = 0; i < 4; ++i) {
            const __m256 x = load_f16(v + 16 * i);
            const __m256 y = _mm256_mul_ps(x, w);
            s[i] = _mm256_add_ps(s[i], y);
            m[i] = _mm256_add_ps(m[i], _mm256_and_ps(y, no_sign));
            t[i] = _mm256_max_ps(t[i], _mm256_and_ps(x, no_sign));
        }
    }
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(sum + 8 * i, s[i]);
        _mm256_storeu_ps(magnitude + 8 * i, m[i]);
        _mm256_storeu_ps(top + 8 * i, t[i]);
    }
}

} // namespace
} // namespace attnscope::attention
#endif

namespace attnscope::attention {

namespace {

template <class Elements>
void plain_along_dims(float weight, const uint8_t* v, int32_t begin, int32_t dim, float* sum, float* magnitude,
                      float* top) {
    for (int32_t d = begin; d < dim; ++d) {
        const float x = Elements::at(v, d);
        sum[d] += weight * x;
        magnitude[d] += std::fabs(weight * x);
        top[d] = std::max(top[d], std::fabs(x));
    }
}

void cells_strip(const WeighTask& t, int64_t begin, int64_t n, std::span<double> sum, std::span<double> magnitude,
                 float& largest) {
    for (int32_t d = 0; d < t.dim; ++d) {
        const uint8_t* v = t.v + size_t(d) * t.dim_stride + size_t(begin) * t.cell_stride;
        double& s = sum[size_t(d)];
        double& m = magnitude[size_t(d)];
#if defined(__x86_64__)
        if (t.type == DType::f16 && has_avx2()) {
            f16_along_cells(t.row + begin, v, n, s, m, largest);
            continue;
        }
#endif
        if (t.type == DType::f16)
            along_cells<F16Elements>(t.row + begin, v, n, s, m, largest);
        else if (t.type == DType::bf16)
            along_cells<Bf16Elements>(t.row + begin, v, n, s, m, largest);
        else
            along_cells<F32Elements>(t.row + begin, v, n, s, m, largest);
    }
}

void dims_strip(const WeighTask& t, int64_t begin, int64_t n, std::span<double> sum, std::span<double> magnitude,
                std::vector<float>& scratch) {
    const auto dim = static_cast<size_t>(t.dim);
    std::fill(scratch.begin(), scratch.begin() + static_cast<std::ptrdiff_t>(2 * dim), 0.0f);
    float *s = scratch.data(), *m = s + dim, *top = m + dim;
    int32_t done = 0;
#if defined(__x86_64__)
    for (; t.type == DType::f16 && has_avx2() && done + 32 <= t.dim; done += 32) {
        f16_along_dims(t.row + begin, t.v + size_t(begin) * t.cell_stride + 2 * size_t(done), t.cell_stride, n,
                       s + done, m + done, top + done);
    }
#endif
    for (int64_t j = begin; j < begin + n && done < t.dim; ++j) {
        const float weight = t.row[j];
        if (weight == 0.0f) continue;
        const uint8_t* v = t.v + size_t(j) * t.cell_stride;
        if (t.type == DType::f16)
            plain_along_dims<F16Elements>(weight, v, done, t.dim, s, m, top);
        else if (t.type == DType::bf16)
            plain_along_dims<Bf16Elements>(weight, v, done, t.dim, s, m, top);
        else
            plain_along_dims<F32Elements>(weight, v, done, t.dim, s, m, top);
    }
    for (size_t d = 0; d < dim; ++d) {
        sum[d] += static_cast<double>(s[d]);
        magnitude[d] += static_cast<double>(m[d]);
    }
}

} // namespace

float weigh_values(const WeighTask& t, std::span<double> sum, std::span<double> magnitude, bool* done) {
    const size_t size = t.type == DType::f32 ? 4 : 2;
    const bool along_dim = t.dim_stride == size;
    *done =
        (t.type == DType::f16 || t.type == DType::bf16 || t.type == DType::f32) && (along_dim || t.cell_stride == size);
    if (!*done) return 0;
    float largest = 0;
    std::vector<float> scratch(3 * static_cast<size_t>(t.dim), 0.0f);
    for (const Range& r : t.visible) {
        for (int64_t at = r.begin; at < r.end; at += strip) {
            const int64_t n = std::min(strip, r.end - at);
            if (along_dim)
                dims_strip(t, at, n, sum, magnitude, scratch);
            else
                cells_strip(t, at, n, sum, magnitude, largest);
        }
    }
    if (along_dim) largest = *std::max_element(scratch.begin() + 2 * t.dim, scratch.end());
    return largest;
}

} // namespace attnscope::attention
