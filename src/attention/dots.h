// What dot products need around the kernels: queries as float32, and ggml's own products of quantised types.
#pragma once

#include <attnscope/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace attnscope::attention {

// Query heads as float32, each starting on a cache line. Keeps its memory from one assign() to the next.
class FloatQueries {
public:
    // q: (n_head, head_dim) in a 16- or 32-bit floating-point type.
    void assign(const uint8_t* q, DType type, size_t n_head, int64_t head_dim);
    void reserve(size_t n_head, int64_t head_dim);
    const float* head(size_t h) const { return lines_[h * lines_per_head_].f; }
    size_t stride() const { return lines_per_head_ * floats_per_line; }

private:
    static constexpr size_t floats_per_line = 16;
    struct alignas(64) Line {
        float f[floats_per_line];
    };
    size_t lines_per_head_ = 0;
    std::vector<Line> lines_;
    std::vector<uint16_t> halves_;
};

// `n` elements of f16, bf16 or f32, exactly.
void to_floats(DType type, const uint8_t* from, float* to, int64_t n);

// Dot products of n_q query heads with n keys, both as the engine holds them.
struct EngineDotTask {
    const uint8_t* q = nullptr;
    size_t q_stride = 0; // bytes from one query head to the next
    int32_t n_q = 0;
    const uint8_t* k = nullptr;
    size_t k_stride = 0; // bytes from one key to the next
    int64_t n = 0;
    float* out = nullptr; // out[h * out_stride + r]
    size_t out_stride = 0;
};
// The types must have passed plan_layer: DotWay::engine.
void engine_dots(const LayerInfo& layer, const EngineDotTask& task);

} // namespace attnscope::attention
