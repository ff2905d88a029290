// Dot products for x86-64 with AVX2, FMA and F16C, and the table of all kernels for them. Only these functions are compiled for those instructions
// (by function attributes), so the library still starts on a machine without them.
#include "attention/kernels/halves_f16c.h"
#include "attention/kernels/prefetch.h"
#include "attention/kernels/row_arithmetic.h"
#include "attention/kernels/simd.h"
#include "attention/kernels/tiles.h"
#include "attention/kernels/weigh_kernels.h"
#include "attention/numbers.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#define ATTNSCOPE_AVX2 __attribute__((target("avx2,fma,f16c")))
#define ATTNSCOPE_AVX2_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

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
        return _mm256_loadu_ps(static_cast<const float*>(static_cast<const void*>(p + static_cast<size_t>(i) * size)));
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
        for (auto& s : part) s = _mm256_setzero_ps();
    }
    int32_t i = 0;
    for (; i + step <= t.head_dim; i += step) {
        for (int part = 0; part < parts; ++part) {
            __m256 key[R];
            for (int r = 0; r < R; ++r) key[r] = Keys::load(k + static_cast<size_t>(r) * t.k_stride, i + 8 * part);
            for (int h = 0; h < H; ++h) {
                const __m256 q = _mm256_loadu_ps(t.q + static_cast<size_t>(h) * t.q_stride + i + 8 * part);
                for (int r = 0; r < R; ++r) sum[part][h * R + r] = _mm256_fmadd_ps(key[r], q, sum[part][h * R + r]);
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
    for (; row < t.n; ++row) dot_tile<Keys, 1, H, order>(t, row);
}

// Tiles of at most sixteen registers: R * H sums times the running sums of the order, R keys and one query.
template <class Keys, Order order> void dots_narrow(const DotTask& t) {
    if constexpr (order != Order::batched) { // four sums each
        switch (t.n_q) {
        case 1: return dots_of<Keys, 3, 1, order>(t);
        case 2: return dots_of<Keys, 1, 2, order>(t);
        case 3: return dots_of<Keys, 1, 3, order>(t);
        default: return;
        }
    }
    switch (t.n_q) {
    case 1: return dots_of<Keys, 8, 1, order>(t);
    case 2: return dots_of<Keys, 4, 2, order>(t);
    case 3: return dots_of<Keys, 3, 3, order>(t);
    case 4: return dots_of<Keys, 3, 4, order>(t);
    case 5: return dots_of<Keys, 2, 5, order>(t);
    case 6: return dots_of<Keys, 2, 6, order>(t);
    case 7: return dots_of<Keys, 1, 7, order>(t);
    default: return;
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
                for (; i + 8 <= t.head_dim; i += 8) _mm256_storeu_ps(to + i, Keys::load(from, i));
                for (; i < t.head_dim; ++i) to[i] = Keys::at(from, i);
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

} // namespace

const RowKernels* avx2_kernels() {
    static constexpr RowKernels kernels{"avx2",
                                        dots<F16Keys, Order::single>,
                                        dots<Bf16Keys, Order::single_bf16>,
                                        dots<F32Keys, Order::single>,
                                        avx2_scores,
                                        avx2_exponentials,
                                        avx2_multiply,
                                        avx2_entropy,
                                        avx2_tiles_f16,
                                        avx2_tiles_bf16,
                                        avx2_tiles_f32,
                                        avx2_add,
                                        avx2_largest,
                                        avx2_weigh,
                                        avx2_read_f16,
                                        nullptr,
                                        nullptr};
    static const bool usable =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && write_f16_by_instruction() != nullptr;
    return usable ? &kernels : nullptr;
}

} // namespace attnscope::attention

#else

namespace attnscope::attention {
const RowKernels* avx2_kernels() {
    return nullptr;
}
} // namespace attnscope::attention

#endif
