// Four small kernels on a stream of their own, so that they run beside the next token's weights:
//   scores    K once, by tiles of cells: scores into scratch, and each tile's maximum and sum of exponentials
//   normalise one row's tiles into its maximum and the factor 1 / denominator (Milakov & Gimelshein 2018, arXiv 1805.02867)
//   weigh     exp(score - maximum) * factor, summed over the heads of a layer
//   gather    summed over the layers of a group
// The first is limited to one block a multiprocessor: the next token's kernels must find room beside it. It multiplies on
// tensor cores (Ampere and later), the products exact and added in float32: what is left is reading K.
#include "capture/mean/cuda/device_mean.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace attnscope::capture {

namespace {

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
        int major = 0, count = 0;
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_);
        if (major < 8) return false; // ggml's operations then
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device_);
        const char* asked = std::getenv("ATTNSCOPE_MEAN_BLOCKS"); // blocks a multiprocessor, for measurements
        blocks_ = count * (asked ? std::max(1, std::atoi(asked)) : 1);
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
        if (!slot.host_input.reserve(input_bytes) || !slot.host_result.reserve(result_bytes) ||
            !slot.input.reserve(input_bytes) || !slot.result.reserve(result_bytes) ||
            !scores_.reserve(sizeof(float) * stride * size_t(n_rows)) ||
            !stats_.reserve(sizeof(float2) * size_t(n_tiles) * size_t(n_rows)) ||
            !rows_.reserve(sizeof(float2) * size_t(n_rows)) ||
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
            l_out[i] = {static_cast<const char*>(l.k),
                        l.k_cell,
                        static_cast<const char*>(l.q),
                        l.q_head,
                        l.n_head,
                        l.n_head_kv,
                        l.head_dim,
                        l.scale,
                        l.softcap,
                        l.post_scale,
                        l.group,
                        row};
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
            kernel<<<std::min((n_items + threads / 32 - 1) / (threads / 32), blocks_), threads, 0, stream_>>>(
                d_layers, n_items, reinterpret_cast<const int*>(d + items_at),
                reinterpret_cast<const int*>(d + firsts_at), g, n_cells, n_tiles, stride, scores_.as<float>(),
                stats_.as<float2>());
        };
        switch (dim) {
        case 64: run(scores<64>); break;
        case 128: run(scores<128>); break;
        case 256: run(scores<256>); break;
        default: return false;
        }
        normalise<<<(n_rows + 7) / 8, 256, 0, stream_>>>(
            stats_.as<float2>(), n_rows, n_tiles, reinterpret_cast<const float*>(d + sinks_at),
            reinterpret_cast<const float*>(d + weights_at), rows_.as<float2>());
        const dim3 cells_by_layer((n_cells + 127) / 128, n_layers);
        weigh<<<cells_by_layer, 128, 0, stream_>>>(d_layers, scores_.as<float>(), stride, rows_.as<float2>(), n_cells,
                                                   partial_.as<float>());
        const dim3 cells_by_group((n_cells + 127) / 128, static_cast<unsigned>(groups.size()));
        gather<<<cells_by_group, 128, 0, stream_>>>(d_layers, n_layers, partial_.as<float>(), n_cells,
                                                    slot.result.as<float>());
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

} // namespace attnscope::capture
