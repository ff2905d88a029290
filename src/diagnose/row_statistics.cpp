#include "diagnose/row_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
// chooses the widest instructions at run time
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

namespace attnscope::diagnose {

namespace {

// The quick pass sees four things; anything strange in them calls for the careful pass.
struct Quick {
    float min, max, sum;
    int64_t zeros;
};

constexpr size_t lanes = 32; // independent partial results: what a compiler needs to vectorise a sum

Quick quick_portable(const float* row, size_t n) {
    float min[lanes], max[lanes], sum[lanes];
    int32_t zeros[lanes];
    std::fill_n(min, lanes, std::numeric_limits<float>::infinity());
    std::fill_n(max, lanes, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, lanes, 0.0f);
    std::fill_n(zeros, lanes, 0);
    const size_t even = n / lanes * lanes;
    for (size_t i = 0; i < even; i += lanes) {
        for (size_t j = 0; j < lanes; ++j) {
            const float x = row[i + j];
            min[j] = x < min[j] ? x : min[j];
            max[j] = x > max[j] ? x : max[j];
            sum[j] += x;
            zeros[j] += x == 0.0f;
        }
    }
    for (size_t i = even; i < n; ++i) {
        const size_t j = i - even;
        min[j] = std::min(min[j], row[i]);
        max[j] = std::max(max[j], row[i]);
        sum[j] += row[i];
        zeros[j] += row[i] == 0.0f;
    }
    Quick quick{min[0], max[0], 0.0f, 0};
    for (size_t j = 0; j < lanes; ++j) {
        quick.min = std::min(quick.min, min[j]);
        quick.max = std::max(quick.max, max[j]);
        quick.sum += sum[j];
        quick.zeros += zeros[j];
    }
    return quick;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) Quick quick_avx2(const float* row, size_t n) {
    const size_t even = n / 32 * 32, eights = n / 8 * 8;
    __m256 min[4], max[4], sum[4];
    __m256i zeros = _mm256_setzero_si256();
    for (int j = 0; j < 4; ++j) {
        min[j] = _mm256_set1_ps(std::numeric_limits<float>::infinity());
        max[j] = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
        sum[j] = _mm256_setzero_ps();
    }
    const __m256 zero = _mm256_setzero_ps();
    for (size_t i = 0; i < even; i += 32) {
        for (int j = 0; j < 4; ++j) {
            const __m256 x = _mm256_loadu_ps(row + i + 8 * j);
            min[j] = _mm256_min_ps(x, min[j]);
            max[j] = _mm256_max_ps(x, max[j]);
            sum[j] = _mm256_add_ps(sum[j], x);
            zeros = _mm256_sub_epi32(zeros, _mm256_castps_si256(_mm256_cmp_ps(x, zero, _CMP_EQ_OQ)));
        }
    }
    for (size_t i = even; i < eights; i += 8) {
        const __m256 x = _mm256_loadu_ps(row + i);
        min[0] = _mm256_min_ps(x, min[0]);
        max[0] = _mm256_max_ps(x, max[0]);
        sum[0] = _mm256_add_ps(sum[0], x);
        zeros = _mm256_sub_epi32(zeros, _mm256_castps_si256(_mm256_cmp_ps(x, zero, _CMP_EQ_OQ)));
    }
    const __m256 least = _mm256_min_ps(_mm256_min_ps(min[0], min[1]), _mm256_min_ps(min[2], min[3]));
    const __m256 most = _mm256_max_ps(_mm256_max_ps(max[0], max[1]), _mm256_max_ps(max[2], max[3]));
    const __m256 total = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
    // eight lanes to one: the halves, then pairs, then neighbours
    __m128 low = _mm_min_ps(_mm256_castps256_ps128(least), _mm256_extractf128_ps(least, 1));
    low = _mm_min_ps(low, _mm_movehl_ps(low, low));
    low = _mm_min_ss(low, _mm_shuffle_ps(low, low, 1));
    __m128 high = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    high = _mm_max_ps(high, _mm_movehl_ps(high, high));
    high = _mm_max_ss(high, _mm_shuffle_ps(high, high, 1));
    __m128 all = _mm_add_ps(_mm256_castps256_ps128(total), _mm256_extractf128_ps(total, 1));
    all = _mm_add_ps(all, _mm_movehl_ps(all, all));
    all = _mm_add_ss(all, _mm_shuffle_ps(all, all, 1));
    __m128i counts = _mm_add_epi32(_mm256_castsi256_si128(zeros), _mm256_extracti128_si256(zeros, 1));
    counts = _mm_add_epi32(counts, _mm_unpackhi_epi64(counts, counts));
    counts = _mm_add_epi32(counts, _mm_shuffle_epi32(counts, 1));
    Quick quick{_mm_cvtss_f32(low), _mm_cvtss_f32(high), _mm_cvtss_f32(all), _mm_cvtsi128_si32(counts)};
    for (size_t i = eights; i < n; ++i) {
        quick.min = std::min(quick.min, row[i]);
        quick.max = std::max(quick.max, row[i]);
        quick.sum += row[i];
        quick.zeros += row[i] == 0.0f;
    }
    return quick;
}
#endif

Quick quick_pass(const float* row, size_t n) {
#if defined(__x86_64__)
    static const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2) return quick_avx2(row, n);
#endif
    return quick_portable(row, n);
}

// The largest number that is a mask's because of the gap above it; 0: there is none.
float finite_mask(const float* row, size_t n) {
    float low = 0, high = -std::numeric_limits<float>::infinity(), rest = 0;
    for (size_t i = 0; i < n; ++i) {
        if (!(row[i] > -1e9f) || row[i] == mask_limit) continue; // a mask's anyway, or NaN
        if (row[i] <= mask_begin) {
            low = std::min(low, row[i]);
            high = std::max(high, row[i]);
        } else {
            rest = std::min(rest, row[i]);
        }
    }
    // the masked ones lie together, and as far from the rest as from 0
    return low < 0 && rest - high > -0.5f * low && high - low < -0.25f * low ? high : 0;
}

RowStatistics careful_pass(const float* row, size_t n) {
    RowStatistics facts;
    facts.min = std::numeric_limits<float>::infinity();
    facts.max = -std::numeric_limits<float>::infinity();
    const float mask = finite_mask(row, n);
    for (size_t i = 0; i < n; ++i) {
        const float x = row[i];
        if (x == mask_limit || x <= -1e9f || (mask < 0 && x <= mask)) {
            ++facts.masked;
            if (!std::isinf(x)) {
                facts.mask_low = std::min(facts.mask_low, x);
                facts.mask_high = facts.mask_high == 0 ? x : std::max(facts.mask_high, x);
            }
            continue;
        }
        if (!std::isfinite(x)) {
            ++facts.not_finite;
            continue;
        }
        facts.min = std::min(facts.min, x);
        facts.max = std::max(facts.max, x);
        facts.sum += static_cast<double>(x);
        facts.zeros += x == 0.0f;
        facts.half_limit += x == 65504.0f;
    }
    if (facts.min > facts.max) facts.min = facts.max = 0; // nothing finite
    return facts;
}

} // namespace

RowStatistics row_statistics(const float* row, size_t n) {
    const Quick quick = quick_pass(row, n);
    // a NaN makes the sum NaN; an infinity makes it infinite or NaN
    if (!std::isfinite(quick.sum) || quick.min <= mask_begin || quick.max >= 65504.0f) return careful_pass(row, n);
    RowStatistics facts;
    facts.min = quick.min;
    facts.max = quick.max;
    facts.sum = static_cast<double>(quick.sum);
    facts.zeros = quick.zeros;
    return facts;
}

int64_t first_nonzero(const float* row, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        if (row[i] != 0.0f) return static_cast<int64_t>(i);
    }
    return -1;
}

int64_t last_nonzero(const float* row, size_t n) {
    for (size_t i = n; i-- > 0;) {
        if (row[i] != 0.0f) return static_cast<int64_t>(i);
    }
    return -1;
}

uint64_t hash_bytes(const void* data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}

} // namespace attnscope::diagnose
