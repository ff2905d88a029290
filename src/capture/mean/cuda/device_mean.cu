#include "capture/mean/cuda/device_mean.h"

#include "capture/mean/cuda/mean_kernels.cuh"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace attnscope::capture {

namespace {

// Memory that grows: the device's, or the host's that devices copy from.
template <cudaError_t (*allocate)(void**, size_t), cudaError_t (*give_back)(void*)> struct Growing {
    void* data = nullptr;
    size_t size = 0;
    bool reserve(size_t bytes) {
        if (size >= bytes) return true;
        give_back(data);
        data = nullptr;
        size = 0;
        bytes += bytes / 4;
        if (allocate(&data, bytes) != cudaSuccess) return false;
        size = bytes;
        return true;
    }
    template <typename T> T* as() { return static_cast<T*>(data); }
    ~Growing() { give_back(data); }
};
using Memory = Growing<cudaMalloc, cudaFree>;
using Pinned = Growing<cudaMallocHost, cudaFreeHost>;

// How much of everything one token has, and where its one small upload holds what: layers, sinks, weights, the layer of each item,
// and that layer's first item.
struct Sizes {
    int cells, tiles, rows, items, layers, groups, head_dim;

    // False: nothing is visible, or the heads differ.
    bool measure(const std::vector<MeanLayer>& of, const std::vector<MeanGroup>& visible) {
        layers = int(of.size()), groups = int(visible.size()), head_dim = of.front().head_dim;
        for (const MeanGroup& g : visible) {
            for (int r = 0; r < g.n_ranges; ++r) cells = std::max(cells, g.end[r]);
        }
        tiles = (cells + tile - 1) / tile;
        for (const MeanLayer& l : of) {
            if (l.head_dim != head_dim) return false;
            rows += l.n_head;
            items += l.n_head_kv * tiles;
        }
        return cells > 0;
    }
    size_t stride() const { return size_t(tiles) * tile; }
    size_t sinks_at() const { return sizeof(Layer) * size_t(layers); }
    size_t weights_at() const { return sinks_at() + sizeof(float) * size_t(rows); }
    size_t items_at() const { return weights_at() + sizeof(float) * size_t(rows); }
    size_t firsts_at() const { return items_at() + sizeof(int) * size_t(items); }
    size_t input_bytes() const { return firsts_at() + sizeof(int) * size_t(items); }
    size_t result_bytes() const { return sizeof(float) * size_t(cells) * size_t(groups); }
};

void fill(char* input, const Sizes& n, const std::vector<MeanLayer>& layers, const std::vector<float>& weights) {
    auto* l_out = reinterpret_cast<Layer*>(input);
    auto* sinks = reinterpret_cast<float*>(input + n.sinks_at());
    auto* w = reinterpret_cast<float*>(input + n.weights_at());
    auto* items = reinterpret_cast<int*>(input + n.items_at());
    auto* firsts = reinterpret_cast<int*>(input + n.firsts_at());
    int row = 0, item = 0;
    for (int i = 0; i < n.layers; ++i) {
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
            w[row] = weights.empty() ? 1.0f / static_cast<float>(n.rows) : weights[size_t(row)];
        }
        const int first = item;
        for (int k = 0; k < l.n_head_kv * n.tiles; ++k, ++item) items[item] = i, firsts[item] = first;
    }
}

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
        Sizes n{};
        if (groups.size() > size_t(mean_max_groups) || !n.measure(layers, groups)) return false;
        if (!reserve(slot, n)) {
            cudaGetLastError();
            return false;
        }
        fill(static_cast<char*>(slot.host_input.data), n, layers, weights);
        cudaStreamWaitEvent(stream_, static_cast<GgmlEvent*>(ready)->event, 0);
        cudaMemcpyAsync(slot.input.data, slot.host_input.data, n.input_bytes(), cudaMemcpyHostToDevice, stream_);
        if (!launch(slot, n, groups)) return false;
        cudaMemcpyAsync(slot.host_result.data, slot.result.data, n.result_bytes(), cudaMemcpyDeviceToHost, stream_);
        cudaEventRecord(slot.done, stream_);
        slot.failed = cudaGetLastError() != cudaSuccess;
        slot.n_cells = n.cells;
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

    bool reserve(Slot& slot, const Sizes& n) {
        return slot.host_input.reserve(n.input_bytes()) && slot.host_result.reserve(n.result_bytes()) &&
               slot.input.reserve(n.input_bytes()) && slot.result.reserve(n.result_bytes()) &&
               scores_.reserve(sizeof(float) * n.stride() * size_t(n.rows)) &&
               stats_.reserve(sizeof(float2) * size_t(n.tiles) * size_t(n.rows)) &&
               rows_.reserve(sizeof(float2) * size_t(n.rows)) &&
               partial_.reserve(sizeof(float) * size_t(n.cells) * size_t(n.layers));
    }

    // False: no kernel for such heads. What fails otherwise, the stream tells.
    bool launch(Slot& slot, const Sizes& n, const std::vector<MeanGroup>& groups) {
        Groups g{};
        std::copy(groups.begin(), groups.end(), g.g);
        const char* d = slot.input.as<char>();
        const auto* layers = reinterpret_cast<const Layer*>(d);
        const auto run = [&](auto kernel) {
            kernel<<<std::min((n.items + threads / 32 - 1) / (threads / 32), blocks_), threads, 0, stream_>>>(
                layers, n.items, reinterpret_cast<const int*>(d + n.items_at()),
                reinterpret_cast<const int*>(d + n.firsts_at()), g, n.cells, n.tiles, n.stride(), scores_.as<float>(),
                stats_.as<float2>());
        };
        switch (n.head_dim) {
        case 64: run(scores<64>); break;
        case 128: run(scores<128>); break;
        case 256: run(scores<256>); break;
        default: return false;
        }
        normalise<<<(n.rows + 7) / 8, 256, 0, stream_>>>(
            stats_.as<float2>(), n.rows, n.tiles, reinterpret_cast<const float*>(d + n.sinks_at()),
            reinterpret_cast<const float*>(d + n.weights_at()), rows_.as<float2>());
        const dim3 cells_by_layer((n.cells + 127) / 128, n.layers);
        weigh<<<cells_by_layer, 128, 0, stream_>>>(layers, scores_.as<float>(), n.stride(), rows_.as<float2>(), n.cells,
                                                   partial_.as<float>());
        const dim3 cells_by_group((n.cells + 127) / 128, n.groups);
        gather<<<cells_by_group, 128, 0, stream_>>>(layers, n.layers, partial_.as<float>(), n.cells,
                                                    slot.result.as<float>());
        return true;
    }

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
