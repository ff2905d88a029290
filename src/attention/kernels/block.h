// Scores of many queries against the keys of one KV head, and what is made of them, in whichever order is fastest.
// Which set is used is decided when the program runs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace attnscope::attention {

// Dot products of queries with keys in tiles (TileTask: (tile, head_dim, tile_columns) elements).
struct BlockTask {
    const float* q =
        nullptr; // (panels, head_dim, width): BlockKernels::width queries side by side, the last panel filled up with
                 // anything finite; 64-byte aligned
    int32_t n_q = 0;
    int32_t head_dim = 0;
    const uint8_t* tiles = nullptr;
    int64_t n_tiles = 0;
    float* out = nullptr;     // out[i * out_stride + c]; rows up to a whole panel are written
    size_t out_stride = 0;    // floats
    float* scratch = nullptr; // block_scratch_floats(head_dim); 64-byte aligned
};
constexpr size_t block_scratch_floats(int32_t head_dim) {
    return static_cast<size_t>(head_dim) * 32;
}

struct BlockKernels {
    const char* name;
    int32_t width; // queries side by side: a panel
    void (*dots_f16)(const BlockTask&);
    void (*dots_bf16)(const BlockTask&);
    void (*dots_f32)(const BlockTask&);
    // to = exp(x * scale - m), m being the largest x * scale, NaN disregarded; returns m, and their sum in *sum. What
    // underflows, and -inf, becomes exactly 0; NaN stays. m = -inf (nothing but -inf and NaN): everything is NaN.
    float (*numerators)(const float* x, int64_t n, float scale, float* to, double* sum);
    // sums[j] += sum over r of factors[r] * rows[r * stride + j], for a few hundred columns at most
    void (*fold)(const float* rows, size_t stride, const float* factors, int64_t n_rows, int64_t n, float* sums);
    // to[j] = factor * from[j]
    void (*scale)(const float* from, float factor, int64_t n, float* to);
};

const BlockKernels& scalar_block_kernels();
const BlockKernels* avx2_block_kernels();   // null where the machine or the build has no AVX2, FMA and F16C
const BlockKernels* avx512_block_kernels(); // null where the machine has no AVX-512 (F, BW, DQ and VL)
const BlockKernels& block_kernels();        // the fastest

} // namespace attnscope::attention
