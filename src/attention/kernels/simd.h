// The inner loops of this room, once per instruction set. Which set is used is decided when the program runs.
#pragma once

#include <attnscope/rows.h>

#include <cstdint>

namespace attnscope::attention {

// Dot products of a group of query heads with consecutive keys of the KV head they share.
struct DotTask {
    const float* q = nullptr; // (n_q, q_stride), the first head_dim of each are used; 64-byte aligned
    size_t q_stride = 0;      // floats from one query head to the next
    int32_t n_q = 0;
    int32_t head_dim = 0;
    const uint8_t* k = nullptr; // the first key; the next starts k_stride bytes further. No alignment is asked for
    size_t k_stride = 0;
    int64_t n = 0;
    float* out = nullptr;   // out[h * out_stride + r] = q[h] . k[r]
    size_t out_stride = 0;  // floats
    bool batched = false;   // RowsRequest::batched
    bool any_order = false; // whichever order of additions is fastest: a few units in the last place from the engine's
    // What to ask memory for while these keys are multiplied: `ahead_bytes` of as many rows as there are keys. Null: the keys
    // that come a little later.
    const uint8_t* ahead = nullptr;
    size_t ahead_stride = 0, ahead_bytes = 0;
};

// The same for keys in tiles: tile_columns columns side by side, (tile, head_dim, tile_columns) elements. Each lane of
// a register is a column, so nothing is added across lanes.
constexpr int64_t tile_columns = 16;
struct TileTask {
    const float* q = nullptr; // as in DotTask
    size_t q_stride = 0;
    int32_t n_q = 0;
    int32_t head_dim = 0;
    const uint8_t* tiles = nullptr;
    int64_t n_tiles = 0;
    float* out = nullptr; // out[h * out_stride + c], c in [0, n_tiles * tile_columns): columns not yet filled included
    size_t out_stride = 0;
    bool batched = false;
    // whichever order of additions is fastest: a few units in the last place from the engine's
    bool any_order = false;
    const uint8_t* ahead = nullptr; // what memory is asked for meanwhile: as many tiles, worked on next; or null
};

// Weighted sums of the V of one head at consecutive cells, for the rows of several queries at once.
constexpr size_t weigh_floats = 32; // dimensions are padded with zeros to a multiple of these
struct WeighBlock {
    const float* v = nullptr; // (n, stride), 64-byte aligned
    size_t stride = 0;        // floats, a multiple of weigh_floats
    int64_t n = 0;
    // (n_rows): each row's weight of the first cell; the others follow. Not negative
    const float* const* weights = nullptr;
    // (n_rows): (2, stride), sum_j p_j v_j and sum_j p_j |v_j| are added to; aligned
    float* const* sums = nullptr;
    int32_t n_rows = 0;
    const uint8_t* ahead = nullptr; // what to ask memory for meanwhile: `ahead_bytes` of n rows; or null
    size_t ahead_stride = 0, ahead_bytes = 0;
};

struct RowKernels {
    const char* name;
    void (*dots_f16)(const DotTask&);
    void (*dots_bf16)(const DotTask&);
    void (*dots_f32)(const DotTask&);
    // x = post_scale * (softcap > 0 ? softcap * tanh(x * scale / softcap) : x * scale), in place; returns the
    // largest result, NaN disregarded, or -inf.
    float (*scores)(float* x, int64_t n, float scale, float softcap, float post_scale);
    // x = exp(x - max), in place; returns their sum. What underflows, and -inf, becomes exactly 0; NaN stays.
    double (*exponentials)(float* x, int64_t n, float max);
    void (*multiply)(float* x, int64_t n, float factor);
    double (*entropy)(const float* p, int64_t n); // -sum p ln p; nothing where p <= 0; NaN stays
    // Bit for bit what dots_* gives for the same keys in rows.
    void (*tiles_f16)(const TileTask&);
    void (*tiles_bf16)(const TileTask&);
    void (*tiles_f32)(const TileTask&);
    void (*add)(float* sum, const float* x, int64_t n);     // sum += x
    void (*largest)(float* max, const float* x, int64_t n); // max = max(max, x); a NaN in either stays
    void (*weigh)(const WeighBlock&);
    // n rows of `dim` f16 elements, `from_stride` bytes apart, as float32, `to_stride` floats apart
    void (*read_f16)(const uint8_t* from, size_t from_stride, int64_t n, int32_t dim, float* to, size_t to_stride);
    // What follows may be null: then it is made of the others.
    // x = exp(x * scale - max), in place, max being the largest x * scale; returns their sum. NaN and underflow as above.
    double (*numerators)(float* x, int64_t n, float scale, float* max);
    // sums[j] += sum over r of factors[r] * rows[r * stride + j], that sum in float32
    void (*add_rows)(const float* rows, size_t stride, const float* factors, int32_t n_rows, int64_t n, double* sums);
};

const RowKernels& scalar_kernels();
const RowKernels* avx2_kernels();   // null where the machine or the build has no AVX2, FMA and F16C
const RowKernels* avx512_kernels(); // null where the machine has no AVX-512 (F, BW, DQ and VL)
// Of those this machine can run, the set that adds as the llama.cpp in use does; where none does, the fastest.
const RowKernels& row_kernels();

// True where row_kernels() adds the products of a score, of a token that was decoded alone, in the order of the
// engine's own dot product, so that both give the same bits. False for builds of llama.cpp whose order is not known
// here.
bool adds_as_engine(DType type, int32_t head_dim);

// attention_rows with a chosen set of kernels: for tests that hold one against the other.
Result<void> attention_rows_with(const RowKernels& kernels, const RowsRequest& request, std::span<float> out,
                                 std::span<float> lse = {});

} // namespace attnscope::attention
