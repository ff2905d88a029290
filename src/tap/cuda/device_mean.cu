// Four small kernels on a stream of their own, so that they run beside the next token's weights:
//   scores    K once, by tiles of cells: scores into scratch, and each tile's maximum and sum of exponentials
//   normalise one row's tiles into its maximum and the factor 1 / denominator (Milakov & Gimelshein 2018, arXiv 1805.02867)
//   weigh     exp(score - maximum) * factor, summed over the heads of a layer
//   gather    summed over the layers of a group
// The first is limited to a few blocks a multiprocessor: the next token's kernels must find room beside it.
#include "tap/cuda/device_mean.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace attnscope::tap {

namespace {

constexpr int tile = 256;    // cells
constexpr int threads = 256; // of a block of `scores`
constexpr int chunk = 8;     // query heads that share one reading of K

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

// Sums v[0..7] over the LPR lanes of a row at once: each exchange halves the number of values a lane carries, so that eight
// sums cost 4 + 2 + 1 (+ 1 a further halving of lanes) exchanges instead of 8 * log2(LPR). The lane ends with the sum of
// head `head`.
template <int LPR> __device__ float reduce8(float (&v)[chunk], int sub, int& head) {
    head = 0;
    int half = chunk / 2;
#pragma unroll
    for (int offset = LPR / 2, step = 0; offset > 0; offset /= 2, ++step) {
        if (step < 3) {
            const bool upper = (sub & offset) != 0;
#pragma unroll
            for (int i = 0; i < chunk / 2; ++i) {
                if (i < half) {
                    const float keep = upper ? v[i + half] : v[i];
                    const float send = upper ? v[i] : v[i + half];
                    v[i] = keep + __shfl_xor_sync(0xffffffffu, send, offset);
                }
            }
            head += upper ? half : 0;
            half /= 2;
        } else {
            v[0] += __shfl_xor_sync(0xffffffffu, v[0], offset);
        }
    }
    return v[0];
}

template <int DIM>
__global__ void __launch_bounds__(threads) scores(const Layer* layers, int n_items, const int* item_layer, const int* item_first,
                                                  Groups groups, int n_cells, int n_tiles, size_t stride, float* out, float2* stats) {
    constexpr int LPR = DIM / 8;       // lanes a row of K: 16 bytes each
    constexpr int RPW = 32 / LPR;      // rows a warp reads at once
    constexpr int warps = threads / 32;
    constexpr int per_warp = tile / warps;
    __shared__ float block_scores[chunk][tile];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, sub = lane % LPR, row = lane / LPR;
    for (int item = blockIdx.x; item < n_items; item += gridDim.x) {
        const int l = item_layer[item];
        const Layer& layer = layers[l];
        const int within = item - item_first[item];
        const int t = within % n_tiles, kv = within / n_tiles;
        const int gqa = layer.n_head / layer.n_head_kv;
        const MeanGroup& group = groups.g[layer.group];
        for (int h0 = 0; h0 < gqa; h0 += chunk) {
            float q[chunk][8];
#pragma unroll
            for (int h = 0; h < chunk; ++h) {
                const bool there = h0 + h < gqa;
                const float4* at = reinterpret_cast<const float4*>(layer.q + size_t(kv * gqa + (there ? h0 + h : 0)) * layer.q_head) + sub * 2;
                const float4 a = at[0], b = at[1];
                q[h][0] = a.x, q[h][1] = a.y, q[h][2] = a.z, q[h][3] = a.w;
                q[h][4] = b.x, q[h][5] = b.y, q[h][6] = b.z, q[h][7] = b.w;
#pragma unroll
                for (int d = 0; d < 8; ++d) q[h][d] = __half2float(__float2half_rn(q[h][d])); // as queries are kept
            }
#pragma unroll 4
            for (int i = 0; i < per_warp / RPW; ++i) {
                const int in_tile = warp * per_warp + i * RPW + row;
                const int cell = t * tile + in_tile;
                float v[chunk] = {};
                if (cell < n_cells) {
                    const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(layer.k + size_t(cell) * layer.k_cell + size_t(kv) * DIM * 2) + sub);
                    const __half2* pairs = reinterpret_cast<const __half2*>(&bits);
                    float k[8];
#pragma unroll
                    for (int p = 0; p < 4; ++p) {
                        const float2 f = __half22float2(pairs[p]);
                        k[2 * p] = f.x, k[2 * p + 1] = f.y;
                    }
#pragma unroll
                    for (int h = 0; h < chunk; ++h) {
#pragma unroll
                        for (int d = 0; d < 8; ++d) v[h] = fmaf(q[h][d], k[d], v[h]);
                    }
                }
                int head = 0;
                const float dot = reduce8<LPR>(v, sub, head);
                float s = layer.softcap > 0 ? layer.softcap * tanhf(dot * layer.scale / layer.softcap) : dot * layer.scale;
                s *= layer.post_scale;
                block_scores[head][in_tile] = cell < n_cells && visible(group, cell) ? s : -INFINITY;
            }
            __syncthreads();
            // A warp a head: the tile's maximum and sum, and the scores to memory.
            for (int h = warp; h < chunk && h0 + h < gqa; h += warps) {
                float m = -INFINITY;
                for (int c = lane; c < tile; c += 32) m = fmaxf(m, block_scores[h][c]);
                for (int o = 16; o > 0; o /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
                float sum = 0;
                const size_t r = size_t(layer.first_row + kv * gqa + h0 + h);
                for (int c = lane; c < tile; c += 32) {
                    const float s = block_scores[h][c];
                    if (m > -INFINITY) sum += __expf(s - m);
                    if (t * tile + c < n_cells) out[r * stride + size_t(t * tile + c)] = s;
                }
                for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
                if (lane == 0) stats[r * size_t(n_tiles) + size_t(t)] = make_float2(m, sum);
            }
            __syncthreads();
        }
    }
}

// A warp a row. `sinks` and `weights`: one a row.
__global__ void normalise(const float2* stats, int n_rows, int n_tiles, const float* sinks, const float* weights, float2* rows) {
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
__global__ void weigh(const Layer* layers, const float* scores, size_t stride, const float2* rows, int n_cells, float* partial) {
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

// Device memory that grows.
struct Memory {
    void* data = nullptr;
    size_t size = 0;
    bool reserve(size_t bytes) {
        if (size >= bytes) return true;
        cudaFree(data);
        data = nullptr;
        size = 0;
        bytes += bytes / 4;
        if (cudaMalloc(&data, bytes) != cudaSuccess) return false;
        size = bytes;
        return true;
    }
    template <typename T> T* as() { return static_cast<T*>(data); }
    ~Memory() { cudaFree(data); }
};

struct Pinned {
    void* data = nullptr;
    size_t size = 0;
    bool reserve(size_t bytes) {
        if (size >= bytes) return true;
        cudaFreeHost(data);
        data = nullptr;
        size = 0;
        bytes += bytes / 4;
        if (cudaMallocHost(&data, bytes) != cudaSuccess) return false;
        size = bytes;
        return true;
    }
    ~Pinned() { cudaFreeHost(data); }
};

// What ggml-cuda puts behind a ggml_backend_event_t (docs/engine.md).
struct GgmlEvent {
    void* device;
    cudaEvent_t event;
};

class CudaMean : public DeviceMean {
public:
    explicit CudaMean(int device) : device_(device) {}
    ~CudaMean() override {
        cudaSetDevice(device_);
        if (stream_) cudaStreamSynchronize(stream_);
        for (Slot& s : slots_) {
            if (s.done) cudaEventDestroy(s.done);
        }
        if (stream_) cudaStreamDestroy(stream_);
    }

    bool open() {
        if (cudaSetDevice(device_) != cudaSuccess) return false;
        if (cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess) return false;
        for (Slot& s : slots_) {
            if (cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming) != cudaSuccess) return false;
        }
        int count = 0;
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device_);
        const char* asked = std::getenv("ATTNSCOPE_MEAN_BLOCKS"); // blocks a multiprocessor, for measurements
        blocks_ = count * (asked ? std::max(1, std::atoi(asked)) : 2);
        return blocks_ > 0;
    }

    bool start(int index, void* ready, const std::vector<MeanLayer>& layers, const std::vector<MeanGroup>& groups,
               const std::vector<float>& weights) override {
        Slot& slot = slots_[index];
        slot.failed = true;
        cudaSetDevice(device_);
        Groups g{};
        int n_cells = 0;
        if (groups.size() > size_t(mean_max_groups)) return false;
        for (size_t i = 0; i < groups.size(); ++i) {
            g.g[i] = groups[i];
            for (int r = 0; r < groups[i].n_ranges; ++r) n_cells = std::max(n_cells, groups[i].end[r]);
        }
        if (n_cells == 0) return false;
        const int n_tiles = (n_cells + tile - 1) / tile;
        const int dim = layers.front().head_dim;
        int n_rows = 0, n_items = 0;
        for (const MeanLayer& l : layers) {
            if (l.head_dim != dim) return false;
            n_rows += l.n_head;
            n_items += l.n_head_kv * n_tiles;
        }
        const auto n_layers = static_cast<int>(layers.size());
        const size_t stride = size_t(n_tiles) * tile;
        // One small upload: layers, sinks, weights, and which layer each item belongs to.
        const size_t layers_at = 0, sinks_at = layers_at + sizeof(Layer) * size_t(n_layers);
        const size_t weights_at = sinks_at + sizeof(float) * size_t(n_rows);
        const size_t items_at = weights_at + sizeof(float) * size_t(n_rows);
        const size_t firsts_at = items_at + sizeof(int) * size_t(n_items);
        const size_t input_bytes = firsts_at + sizeof(int) * size_t(n_items);
        const size_t result_bytes = sizeof(float) * size_t(n_cells) * groups.size();
        if (!slot.host_input.reserve(input_bytes) || !slot.host_result.reserve(result_bytes) || !slot.input.reserve(input_bytes) ||
            !slot.result.reserve(result_bytes) || !scores_.reserve(sizeof(float) * stride * size_t(n_rows)) ||
            !stats_.reserve(sizeof(float2) * size_t(n_tiles) * size_t(n_rows)) || !rows_.reserve(sizeof(float2) * size_t(n_rows)) ||
            !partial_.reserve(sizeof(float) * size_t(n_cells) * size_t(n_layers))) {
            cudaGetLastError();
            return false;
        }
        char* input = static_cast<char*>(slot.host_input.data);
        auto* l_out = reinterpret_cast<Layer*>(input + layers_at);
        auto* sinks = reinterpret_cast<float*>(input + sinks_at);
        auto* w = reinterpret_cast<float*>(input + weights_at);
        auto* items = reinterpret_cast<int*>(input + items_at);
        auto* firsts = reinterpret_cast<int*>(input + firsts_at);
        int row = 0, item = 0;
        for (int i = 0; i < n_layers; ++i) {
            const MeanLayer& l = layers[size_t(i)];
            l_out[i] = {static_cast<const char*>(l.k), l.k_cell, static_cast<const char*>(l.q), l.q_head, l.n_head, l.n_head_kv,
                        l.head_dim, l.scale, l.softcap, l.post_scale, l.group, row};
            for (int h = 0; h < l.n_head; ++h, ++row) {
                sinks[row] = l.sinks ? l.sinks[h] : -INFINITY;
                w[row] = weights.empty() ? 1.0f / static_cast<float>(n_rows) : weights[size_t(row)];
            }
            const int first = item;
            for (int k = 0; k < l.n_head_kv * n_tiles; ++k, ++item) items[item] = i, firsts[item] = first;
        }
        char* d = slot.input.as<char>();
        cudaStreamWaitEvent(stream_, static_cast<GgmlEvent*>(ready)->event, 0);
        cudaMemcpyAsync(d, input, input_bytes, cudaMemcpyHostToDevice, stream_);
        const auto* d_layers = reinterpret_cast<const Layer*>(d + layers_at);
        const auto run = [&](auto kernel) {
            kernel<<<std::min(n_items, blocks_), threads, 0, stream_>>>(d_layers, n_items, reinterpret_cast<const int*>(d + items_at),
                                                                        reinterpret_cast<const int*>(d + firsts_at), g, n_cells, n_tiles,
                                                                        stride, scores_.as<float>(), stats_.as<float2>());
        };
        switch (dim) {
        case 64: run(scores<64>); break;
        case 128: run(scores<128>); break;
        case 256: run(scores<256>); break;
        default: return false;
        }
        normalise<<<(n_rows + 7) / 8, 256, 0, stream_>>>(stats_.as<float2>(), n_rows, n_tiles,
                                                        reinterpret_cast<const float*>(d + sinks_at),
                                                        reinterpret_cast<const float*>(d + weights_at), rows_.as<float2>());
        const dim3 cells_by_layer((n_cells + 127) / 128, n_layers);
        weigh<<<cells_by_layer, 128, 0, stream_>>>(d_layers, scores_.as<float>(), stride, rows_.as<float2>(), n_cells, partial_.as<float>());
        const dim3 cells_by_group((n_cells + 127) / 128, static_cast<unsigned>(groups.size()));
        gather<<<cells_by_group, 128, 0, stream_>>>(d_layers, n_layers, partial_.as<float>(), n_cells, slot.result.as<float>());
        cudaMemcpyAsync(slot.host_result.data, slot.result.data, result_bytes, cudaMemcpyDeviceToHost, stream_);
        cudaEventRecord(slot.done, stream_);
        slot.failed = cudaGetLastError() != cudaSuccess;
        slot.n_cells = n_cells;
        return !slot.failed;
    }

    const float* wait(int index) override {
        Slot& slot = slots_[index];
        if (slot.failed || cudaEventSynchronize(slot.done) != cudaSuccess) return nullptr;
        return static_cast<const float*>(slot.host_result.data);
    }
    int32_t n_cells(int index) const override { return slots_[index].n_cells; }

private:
    struct Slot {
        Memory input, result;
        Pinned host_input, host_result;
        cudaEvent_t done = nullptr;
        int n_cells = 0;
        bool failed = true;
    };
    int device_ = 0, blocks_ = 0;
    cudaStream_t stream_ = nullptr;
    Slot slots_[n_slots];
    Memory scores_, stats_, rows_, partial_;
};

} // namespace

std::unique_ptr<DeviceMean> DeviceMean::create(int cuda_device) {
    auto mean = std::make_unique<CudaMean>(cuda_device);
    if (!mean->open()) {
        cudaGetLastError();
        return nullptr;
    }
    return mean;
}

bool DeviceMean::supports(int32_t k_type, int32_t n_head, int32_t n_head_kv, int32_t head_dim, float max_bias) {
    constexpr int32_t f16 = 1; // ggml's number
    return k_type == f16 && n_head_kv > 0 && n_head % n_head_kv == 0 && max_bias == 0 &&
           (head_dim == 64 || head_dim == 128 || head_dim == 256);
}

} // namespace attnscope::tap
