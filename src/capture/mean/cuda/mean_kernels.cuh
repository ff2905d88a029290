// Four small kernels, for a stream of their own, so that they run beside the next token's weights:
//   scores    K once, by tiles of cells: scores into scratch, and each tile's maximum and sum of exponentials
//   normalise one row's tiles into its maximum and the factor 1 / denominator (Milakov & Gimelshein 2018, arXiv 1805.02867)
//   weigh     exp(score - maximum) * factor, summed over the heads of a layer
//   gather    summed over the layers of a group
// The first is limited to one block a multiprocessor: the next token's kernels must find room beside it. It multiplies on
// tensor cores (Ampere and later), the products exact and added in float32: what is left is reading K.
#pragma once

#include "capture/mean/cuda/device_mean.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace attnscope::capture {

namespace { // device_mean.cu alone includes this

constexpr int tile = 128;    // cells of an item, a multiple of 16
constexpr int threads = 256; // of a block of `scores`
constexpr int chunk = 8;     // query heads that are multiplied at once

struct Layer {
    const char* k;
    size_t k_cell;
    const char* q;
    size_t q_head;
    int n_head, n_head_kv, head_dim;
    float scale, softcap, post_scale;
    int group, first_row;
};

struct Groups {
    MeanGroup g[mean_max_groups];
};

__device__ bool visible(const MeanGroup& g, int cell) {
    for (int r = 0; r < g.n_ranges; ++r) {
        if (cell >= g.begin[r] && cell < g.end[r]) return true;
    }
    return false;
}

// D = A B + D of a warp: A (16 cells, 16 dimensions), B (16 dimensions, 8 heads), f16, added in f32. Which lane holds what: PTX
// ISA, "Matrix Fragments for mma.m16n8k16".
__device__ void multiply(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
                 "%1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b[0]), "r"(b[1]));
#else
    __trap(); // create() gives none
#endif
}

// A product does not depend on the order of its dimensions, so that each lane may take sixteen bytes at once: of every 32
// dimensions its 8, which serve two steps, where the fragments ask for 2 and 2 of every 16. Lane 4 g + part: cells g and g + 8.
template <int DIM> struct Keys {
    static constexpr int pieces = DIM / 32;
    uint4 k[pieces][2];

    __device__ void load(const Layer& layer, int kv, int first_cell, int n_cells) {
        const int lane = threadIdx.x % 32, g = lane / 4, part = lane % 4;
#pragma unroll
        for (int r = 0; r < 2; ++r) { // cells behind the last one are read as the last one
            const int cell = min(first_cell + g + 8 * r, n_cells - 1);
            const auto* row =
                reinterpret_cast<const uint4*>(layer.k + size_t(cell) * layer.k_cell + size_t(kv) * DIM * 2);
#pragma unroll
            for (int p = 0; p < pieces; ++p) k[p][r] = __ldcs(row + p * 4 + part);
        }
    }
};

template <int DIM> struct Queries { // of 8 heads; those beyond n_heads are the first one again
    unsigned q[2 * Keys<DIM>::pieces][2];

    __device__ void load(const Layer& layer, int first_head, int n_heads) {
        const int lane = threadIdx.x % 32, g = lane / 4, part = lane % 4;
        const auto* row =
            reinterpret_cast<const float4*>(layer.q + size_t(first_head + (g < n_heads ? g : 0)) * layer.q_head);
#pragma unroll
        for (int step = 0; step < 2 * Keys<DIM>::pieces; ++step) {
            const float4 x = row[(step / 2 * 4 + part) * 2 + step % 2];
            const __half2 low = __floats2half2_rn(x.x, x.y), high = __floats2half2_rn(x.z, x.w); // as queries are kept
            q[step][0] = *reinterpret_cast<const unsigned*>(&low);
            q[step][1] = *reinterpret_cast<const unsigned*>(&high);
        }
    }
};

// The maximum of some scores and the sum of their exponentials beside it.
struct Stats {
    float max = -INFINITY, sum = 0;

    __device__ void add(float m, float s) {
        const float top = fmaxf(max, m);
        if (top == -INFINITY) return;
        sum = sum * __expf(max - top) + s * __expf(m - top);
        max = top;
    }
};

// A warp an item: a tile of cells of one KV head, for all its query heads. The next sixteen cells are on their way from memory
// while these are multiplied.
template <int DIM>
__global__ void __launch_bounds__(threads, DIM <= 128 ? 2 : 1)
    scores(const Layer* layers, int n_items, const int* item_layer, const int* item_first, Groups groups, int n_cells,
           int n_tiles, size_t stride, float* out, float2* stats) {
    const int lane = threadIdx.x % 32, g = lane / 4, part = lane % 4;
    const int n_warps = int(gridDim.x) * (threads / 32);
    for (int item = int(blockIdx.x) * (threads / 32) + int(threadIdx.x) / 32; item < n_items; item += n_warps) {
        const Layer layer = layers[item_layer[item]];
        const int within = item - item_first[item];
        const int t = within % n_tiles, kv = within / n_tiles;
        const int gqa = layer.n_head / layer.n_head_kv;
        const MeanGroup& group = groups.g[layer.group];
        for (int h0 = 0; h0 < gqa; h0 += chunk) {
            Queries<DIM> queries;
            queries.load(layer, kv * gqa + h0, gqa - h0);
            Keys<DIM> keys[2];
            keys[0].load(layer, kv, t * tile, n_cells);
            Stats mine[2]; // of heads 2 part and 2 part + 1
            const size_t row = size_t(layer.first_row + kv * gqa + h0 + 2 * part);
#pragma unroll
            for (int i = 0; i < tile / 16; ++i) {
                if (i + 1 < tile / 16) keys[(i + 1) % 2].load(layer, kv, t * tile + 16 * (i + 1), n_cells);
                float d[4] = {};
#pragma unroll
                for (int p = 0; p < Keys<DIM>::pieces; ++p) {
                    const uint4 &a = keys[i % 2].k[p][0], &b = keys[i % 2].k[p][1];
                    multiply(d, a.x, b.x, a.y, b.y, queries.q[2 * p]);
                    multiply(d, a.z, b.z, a.w, b.w, queries.q[2 * p + 1]);
                }
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const int cell = t * tile + 16 * i + 8 * r + g;
                    const bool seen = cell < n_cells && visible(group, cell);
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        float s = d[2 * r + h];
                        s = layer.softcap > 0 ? layer.softcap * tanhf(s * layer.scale / layer.softcap)
                                              : s * layer.scale;
                        s = seen ? s * layer.post_scale : -INFINITY;
                        if (cell < n_cells && h0 + 2 * part + h < gqa) out[(row + h) * stride + size_t(cell)] = s;
                        mine[h].add(s, 1.0f);
                    }
                }
            }
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                for (int o = 4; o < 32; o *= 2) {
                    const float m = __shfl_xor_sync(0xffffffffu, mine[h].max, o),
                                s = __shfl_xor_sync(0xffffffffu, mine[h].sum, o);
                    mine[h].add(m, s);
                }
                if (g == 0 && h0 + 2 * part + h < gqa)
                    stats[(row + h) * size_t(n_tiles) + size_t(t)] = make_float2(mine[h].max, mine[h].sum);
            }
        }
    }
}

// A warp a row. `sinks` and `weights`: one a row.
__global__ void normalise(const float2* stats, int n_rows, int n_tiles, const float* sinks, const float* weights,
                          float2* rows) {
    const int r = int(blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (r >= n_rows) return;
    float m = sinks[r]; // -inf where there is none
    for (int t = lane; t < n_tiles; t += 32) m = fmaxf(m, stats[size_t(r) * n_tiles + t].x);
    for (int o = 16; o > 0; o /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
    float sum = lane == 0 && sinks[r] > -INFINITY ? expf(sinks[r] - m) : 0.0f;
    for (int t = lane; t < n_tiles; t += 32) {
        const float2 s = stats[size_t(r) * n_tiles + t];
        if (s.x > -INFINITY) sum += s.y * expf(s.x - m);
    }
    for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (lane == 0) rows[r] = make_float2(m, sum > 0 ? weights[r] / sum : 0.0f);
}

// partial (layers, n_cells)
__global__ void weigh(const Layer* layers, const float* scores, size_t stride, const float2* rows, int n_cells,
                      float* partial) {
    const int cell = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (cell >= n_cells) return;
    const Layer& layer = layers[blockIdx.y];
    float sum = 0;
#pragma unroll 4
    for (int h = 0; h < layer.n_head; ++h) {
        const float2 r = __ldg(rows + layer.first_row + h);
        const float s = __ldcs(scores + size_t(layer.first_row + h) * stride + cell);
        if (s > -INFINITY) sum += r.y * __expf(s - r.x);
    }
    partial[size_t(blockIdx.y) * n_cells + cell] = sum;
}

// out (groups, n_cells)
__global__ void gather(const Layer* layers, int n_layers, const float* partial, int n_cells, float* out) {
    const int cell = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (cell >= n_cells) return;
    float sum = 0;
    for (int l = 0; l < n_layers; ++l) {
        if (layers[l].group == int(blockIdx.y)) sum += partial[size_t(l) * n_cells + cell];
    }
    out[size_t(blockIdx.y) * n_cells + cell] = sum;
}

} // namespace

} // namespace attnscope::capture
