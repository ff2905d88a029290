// The mean of one token's rows of attention, computed on an NVIDIA GPU beside the model.
//
// Reads the K cache once and writes one number a cell: a client that wants one vector never costs a transfer of rows.
// Knows numbers and device pointers only. C++17, which every nvcc and CMake understands.
#pragma once

#include "capture/mean/mean_shape.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace attnscope::capture {

constexpr int mean_max_ranges = 8;
constexpr int mean_max_groups = 4;

// One layer of the token. Device pointers are borrowed until the token's event has passed.
struct MeanLayer : MeanShape {
    const void* k = nullptr; // f16 (cell, n_head_kv, head_dim)
    const void* q = nullptr; // f32; head h at q + h * q_head bytes
};

// The cells that a group of layers sees.
struct MeanGroup {
    int32_t n_ranges = 0;
    int32_t begin[mean_max_ranges] = {}, end[mean_max_ranges] = {};
};

// Scores are dot products in float32 of queries rounded to f16, as frames keep them, and f16 keys; softmax in float32; the mean over all rows, or over those
// that `weights` picks. Not thread-safe; two tokens may be under way at once.
class DeviceMean {
public:
    static constexpr int n_slots = 2;

    // Null where the current build or machine cannot do it.
    static std::unique_ptr<DeviceMean> create(int cuda_device);
    virtual ~DeviceMean() = default;

    // Can it compute layers of this shape?
    static bool supports(int32_t k_type, int32_t n_head, int32_t n_head_kv, int32_t head_dim, float max_bias);

    // Starts behind `ready`, an event of ggml's CUDA back end (ggml_backend_event_t). `weights`: one a row, in the order of the
    // layers and their heads, summing to 1; empty: all rows alike. False: no memory, or too many ranges.
    virtual bool start(int slot, void* ready, const std::vector<MeanLayer>& layers,
                       const std::vector<MeanGroup>& groups, const std::vector<float>& weights) = 0;
    // Blocks until the slot's result is there: (groups, n_cells) float32; cells that are not visible are 0. Null: it failed.
    virtual const float* wait(int slot) = 0;
    virtual int32_t n_cells(int slot) const = 0;
};

} // namespace attnscope::capture
