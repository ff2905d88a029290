// Dot products for x86-64 with AVX-512. A llama.cpp that was compiled for AVX-512 adds the products of a score in
// another order than one compiled for AVX2, so these exist for exactness first and for speed second. The rest of a row
// (exponentials and what follows) is the AVX2 kernels'.
#include "attention/kernels/parts_avx512.h"
#include "attention/kernels/prefetch.h"
#include "attention/kernels/simd.h"
#include "attention/kernels/tiles.h"
#include "attention/kernels/weigh_kernels.h"
#include "attention/numbers.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#define ATTNSCOPE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define ATTNSCOPE_AVX512_INLINE                                                                                        \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"), always_inline)) inline

namespace attnscope::attention {

namespace {

ATTNSCOPE_AVX512_INLINE __m256i load_256(const uint8_t* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(static_cast<const void*>(p)));
}

// Sixteen elements from element i on, as float32. With a mask of all lanes, because GCC 12 warns of what its own header
// leaves uninitialised without one; the instructions are the same.
constexpr __mmask16 all_lanes = 0xffff;
struct F16Keys : F16Elements {
    static ATTNSCOPE_AVX512_INLINE __m512 load(const uint8_t* p, int32_t i) {
        return _mm512_maskz_cvtph_ps(all_lanes, load_256(p + static_cast<size_t>(i) * size));
    }
};
struct Bf16Keys : Bf16Elements {
    static ATTNSCOPE_AVX512_INLINE __m512 load(const uint8_t* p, int32_t i) {
        const __m512i wide = _mm512_maskz_cvtepu16_epi32(all_lanes, load_256(p + static_cast<size_t>(i) * size));
        return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all_lanes, wide, 16));
    }
};
struct F32Keys : F32Elements {
    static ATTNSCOPE_AVX512_INLINE __m512 load(const uint8_t* p, int32_t i) {
        return _mm512_loadu_ps(p + static_cast<size_t>(i) * size);
    }
};

// The engine's orders (ggml-cpu/vec.cpp and llamafile/sgemm.cpp, compiled for AVX-512):
//   single       ggml_vec_dot_f16 and _f32: four running sums of 16 lanes, 64 elements a step
//   single_bf16  ggml_vec_dot_bf16: two running sums of 16 lanes, each summed over its lanes before they are added
//   batched      tinyBLAS: one running sum of 16 lanes
enum class Order { single, single_bf16, batched };

constexpr int running_sums(Order order) {
    return order == Order::single ? 4 : order == Order::single_bf16 ? 2 : 1;
}

ATTNSCOPE_AVX512_INLINE __m128 quarter(__m512 x) { // lanes 0-7 and 8-15, then 0-3 and 4-7
    const __m256 half =
        _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, x, 1), _mm512_maskz_extractf32x8_ps(0xff, x, 0));
    return _mm_add_ps(_mm256_extractf128_ps(half, 1), _mm256_castps256_ps128(half));
}

// The sums of the lanes of a, b, c and d, in the order of _mm512_reduce_add_ps: the halves are added until one is left.
ATTNSCOPE_AVX512_INLINE __m128 sum_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m128 ta = quarter(a);
    const __m128 tb = quarter(b);
    const __m128 tc = quarter(c);
    const __m128 td = quarter(d);
    const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(ta, tb), _mm_unpackhi_ps(ta, tb)); // a02 b02 a13 b13
    const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(tc, td), _mm_unpackhi_ps(tc, td));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

// The same for sixteen registers, s[4 r + h] being the sum of key r and query h: out, four at a time, h by h. The same pairs
// are added, with half the shuffles.
ATTNSCOPE_AVX512_INLINE void sum_lanes_4x4(const __m512* s, float* out, size_t out_stride) {
    __m512 pair[8], four[4];
    for (int i = 0; i < 8; ++i) { // lanes 0-7 and 8-15
        const __m512 low = _mm512_maskz_shuffle_f32x4(all_lanes, s[2 * i], s[2 * i + 1], 0x44);
        pair[i] = _mm512_add_ps(low, _mm512_maskz_shuffle_f32x4(all_lanes, s[2 * i], s[2 * i + 1], 0xee));
    }
    for (int i = 0; i < 4; ++i) { // then 0-3 and 4-7
        const __m512 low = _mm512_maskz_shuffle_f32x4(all_lanes, pair[2 * i], pair[2 * i + 1], 0x88);
        four[i] = _mm512_add_ps(low, _mm512_maskz_shuffle_f32x4(all_lanes, pair[2 * i], pair[2 * i + 1], 0xdd));
    }
    __m512 half[2];
    for (int i = 0; i < 2; ++i) { // then every other one
        const __m512d a = _mm512_castps_pd(four[2 * i]), b = _mm512_castps_pd(four[2 * i + 1]);
        half[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, a, b)),
                                _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, a, b)));
    }
    const __m512 all = _mm512_add_ps(_mm512_maskz_shuffle_ps(all_lanes, half[0], half[1], 0x88),
                                     _mm512_maskz_shuffle_ps(all_lanes, half[0], half[1], 0xdd));
    const __m256 upper = _mm512_maskz_extractf32x8_ps(0xff, all, 1);
    const __m256 lower = _mm512_maskz_extractf32x8_ps(0xff, all, 0);
    _mm_storeu_ps(out, _mm256_castps256_ps128(lower));
    _mm_storeu_ps(out + out_stride, _mm256_extractf128_ps(lower, 1));
    _mm_storeu_ps(out + 2 * out_stride, _mm256_castps256_ps128(upper));
    _mm_storeu_ps(out + 3 * out_stride, _mm256_extractf128_ps(upper, 1));
}

// R keys against H query heads, everything in flight held in registers: each element of K is loaded and converted once
// for all H heads.
template <class Keys, int R, int H, Order order> ATTNSCOPE_AVX512_INLINE void dot_tile(const DotTask& t, int64_t row) {
    constexpr int n_sums = R * H;
    constexpr int n_padded = (n_sums + 3) / 4 * 4;
    constexpr int parts = running_sums(order);
    constexpr int step = 16 * parts;
    const uint8_t* k = t.k + static_cast<size_t>(row) * t.k_stride;
    __m512 sum[parts][n_padded];
    for (auto& part : sum) {
        for (auto& s : part) s = _mm512_setzero_ps();
    }
    int32_t i = 0;
    for (; i + step <= t.head_dim; i += step) {
        for (int part = 0; part < parts; ++part) {
            __m512 key[R];
            for (int r = 0; r < R; ++r) key[r] = Keys::load(k + static_cast<size_t>(r) * t.k_stride, i + 16 * part);
            for (int h = 0; h < H; ++h) {
                const __m512 q = _mm512_loadu_ps(t.q + static_cast<size_t>(h) * t.q_stride + i + 16 * part);
                for (int r = 0; r < R; ++r) sum[part][h * R + r] = _mm512_fmadd_ps(key[r], q, sum[part][h * R + r]);
            }
        }
    }
    if constexpr (order == Order::single) {
        for (int s = 0; s < n_sums; ++s)
            sum[0][s] = _mm512_add_ps(_mm512_add_ps(sum[0][s], sum[2][s]), _mm512_add_ps(sum[1][s], sum[3][s]));
    }
    if constexpr (order == Order::batched && R == 4 && H == 4) { // head_dim is a multiple of 16: nothing is left
        __m512 turned[16];
        for (int r = 0; r < 4; ++r) {
            for (int h = 0; h < 4; ++h) turned[4 * r + h] = sum[0][h * 4 + r];
        }
        return sum_lanes_4x4(turned, t.out + row, t.out_stride);
    }
    float total[n_padded];
    float second[n_padded]; // single_bf16's other running sum
    for (int s = 0; s < n_padded; s += 4) {
        _mm_storeu_ps(total + s, sum_lanes(sum[0][s], sum[0][s + 1], sum[0][s + 2], sum[0][s + 3]));
        if constexpr (order == Order::single_bf16)
            _mm_storeu_ps(second + s, sum_lanes(sum[1][s], sum[1][s + 1], sum[1][s + 2], sum[1][s + 3]));
    }
    if (i < t.head_dim || order == Order::single_bf16) {
        // what is left is added one by one, in double precision, as ggml does
        for (int h = 0; h < H; ++h) {
            for (int r = 0; r < R; ++r) {
                auto rest = static_cast<double>(total[h * R + r]);
                if constexpr (order == Order::single_bf16) rest += static_cast<double>(second[h * R + r]);
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

template <class Keys, int R, int H, Order order> ATTNSCOPE_AVX512 void dots_of(const DotTask& t) {
    int64_t row = 0;
    for (; row + R <= t.n; row += R) {
        prefetch_keys(t, Keys::size, row, R);
        dot_tile<Keys, R, H, order>(t, row);
    }
    for (; row < t.n; ++row) dot_tile<Keys, 1, H, order>(t, row);
}

// Tiles of at most 32 registers: R * H sums times the running sums of the order, and R keys.
template <class Keys, Order order> void dots_narrow(const DotTask& t) {
    constexpr int room = 28 / running_sums(order);
    switch (t.n_q) {
    case 1: return dots_of<Keys, std::min(room, 8), 1, order>(t);
    case 2: return dots_of<Keys, std::min(room / 2, 8), 2, order>(t);
    case 3: return dots_of<Keys, std::min(room / 3, 6), 3, order>(t);
    case 4: return dots_of < Keys, order == Order::batched ? 4 : std::min(room / 4, 5), 4, order > (t);
    case 5: return dots_of<Keys, std::min(room / 5, 4), 5, order>(t);
    case 6: return dots_of<Keys, std::min(room / 6, 4), 6, order>(t);
    case 7: return dots_of<Keys, std::min(room / 7, 3), 7, order>(t);
    default: return;
    }
}

// More heads than registers: convert some keys once, keep them in the first-level cache, and let the heads come to them
// in turns.
template <class Keys, Order order> ATTNSCOPE_AVX512 void dots_wide(const DotTask& t) {
    constexpr int32_t max_narrow = order == Order::batched ? 4 : 7; // 4 by 4 sums are added up fastest
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
                for (; i + 16 <= t.head_dim; i += 16) _mm512_storeu_ps(to + i, Keys::load(from, i));
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

template <class Keys, Order order> void dots_ordered(const DotTask& t) {
    t.n_q <= 7 ? dots_narrow<Keys, order>(t) : dots_wide<Keys, order>(t);
}

template <class Keys, Order single, auto any_dots> void dots(const DotTask& t) {
    if (t.any_order && t.head_dim % 16 == 0) return any_dots(t);
    // tinyBLAS takes whole registers only: for other lengths the engine uses its other kernel
    if (t.batched && t.head_dim % 16 == 0) return dots_ordered<Keys, Order::batched>(t);
    dots_ordered<Keys, single>(t);
}

} // namespace

const RowKernels* avx512_kernels() {
    const RowKernels* rest = avx2_kernels();
    static const bool usable = rest && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!usable) return nullptr;
    static const RowKernels kernels{"avx512",
                                    dots<F16Keys, Order::single, avx512_any_dots_f16>,
                                    dots<Bf16Keys, Order::single_bf16, avx512_any_dots_bf16>,
                                    dots<F32Keys, Order::single, avx512_any_dots_f32>,
                                    rest->scores,
                                    rest->exponentials,
                                    rest->multiply,
                                    rest->entropy,
                                    avx512_tiles_f16,
                                    avx512_tiles_bf16,
                                    avx512_tiles_f32,
                                    rest->add,
                                    rest->largest,
                                    avx512_weigh,
                                    avx512_read_f16,
                                    avx512_numerators,
                                    avx512_add_rows};
    return &kernels;
}

} // namespace attnscope::attention

#else

namespace attnscope::attention {
const RowKernels* avx512_kernels() {
    return nullptr;
}
} // namespace attnscope::attention

#endif
