// What every maker of means must know of a layer, wherever its keys and queries lie. Knows numbers only. C++17, as
// cuda/device_mean.h is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace attnscope::capture {

struct MeanShape {
    int32_t n_head = 0, n_head_kv = 0, head_dim = 0;
    size_t k_cell = 0;                            // bytes from cell to cell of (cell, n_head_kv, head_dim)
    size_t q_head = 0;                            // bytes from head to head, f32
    float scale = 1, softcap = 0, post_scale = 1; // as in LayerInfo
    int32_t group = 0;                            // which of the visible ranges apply
    const float* sinks = nullptr;                 // host, (n_head), or null
};

} // namespace attnscope::capture
