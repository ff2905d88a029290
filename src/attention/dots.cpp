#include "attention/dots.h"

#include "attention/engine_arithmetic.h"

#include <cstring>

namespace attnscope::attention {

void to_floats(DType type, const uint8_t* from, float* to, int64_t n) {
    if (type == DType::f32) {
        std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
        return;
    }
    const void* halves = from;
    if (type == DType::f16)
        f16_to_f32(static_cast<const uint16_t*>(halves), to, n);
    else
        bf16_to_f32(static_cast<const uint16_t*>(halves), to, n);
}

void FloatQueries::reserve(size_t n_head, int64_t head_dim) {
    const auto dim = static_cast<size_t>(head_dim);
    lines_.reserve(n_head * ((dim + floats_per_line - 1) / floats_per_line));
    halves_.reserve(n_head * dim);
}

void FloatQueries::assign(const uint8_t* q, DType type, size_t n_head, int64_t head_dim) {
    lines_per_head_ = (static_cast<size_t>(head_dim) + floats_per_line - 1) / floats_per_line;
    lines_.resize(n_head * lines_per_head_);
    if (type != DType::f32 && static_cast<size_t>(head_dim) % floats_per_line == 0) { // one behind the other
        halves_.resize(n_head * static_cast<size_t>(head_dim));
        std::memcpy(halves_.data(), q, halves_.size() * sizeof(uint16_t));
        to_floats(type, static_cast<const uint8_t*>(static_cast<const void*>(halves_.data())), lines_.data()->f,
                  static_cast<int64_t>(halves_.size()));
        return;
    }
    const size_t head_bytes = dtype_row_bytes(type, head_dim);
    for (size_t h = 0; h < n_head; ++h) {
        const uint8_t* from = q + h * head_bytes;
        float* to = lines_[h * lines_per_head_].f;
        if (type == DType::f32) {
            std::memcpy(to, from, head_bytes);
            continue;
        }
        // The caller's bytes need not be aligned. Every 16-bit number is a float32, so nothing is rounded.
        halves_.resize(static_cast<size_t>(head_dim));
        std::memcpy(halves_.data(), from, head_bytes);
        to_floats(type, static_cast<const uint8_t*>(static_cast<const void*>(halves_.data())), to, head_dim);
    }
}

void engine_dots(const LayerInfo& layer, const EngineDotTask& t) {
    start_engine_arithmetic();
    const auto vec_dot = engine_arithmetic(layer.k_type).vec_dot;
    for (int64_t r = 0; r < t.n; ++r) {
        const uint8_t* k = t.k + static_cast<size_t>(r) * t.k_stride;
        for (int32_t h = 0; h < t.n_q; ++h) {
            float* out = t.out + static_cast<size_t>(h) * t.out_stride + static_cast<size_t>(r);
            vec_dot(layer.head_dim, out, 0, k, 0, t.q + static_cast<size_t>(h) * t.q_stride, 0, 1);
        }
    }
}

} // namespace attnscope::attention
