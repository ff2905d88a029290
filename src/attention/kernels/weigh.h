// Weighted sums of V, for the witness: P.V of one head, and how large its terms are.
#pragma once

#include <attnscope/types.h>

#include <cstdint>
#include <span>

namespace attnscope::attention {

struct WeighTask {
    const float* row = nullptr;             // weights by cell; NaN is carried through
    std::span<const Range> visible;         // cells
    const uint8_t* v = nullptr;             // element (dim 0, cell 0)
    size_t cell_stride = 0, dim_stride = 0; // bytes
    DType type = DType::f16;                // f16, bf16 or f32
    int32_t dim = 0;
};

// sum[d] = sum_j row[j] v[j][d], magnitude[d] = sum_j |row[j] v[j][d]|; float32 products, added in float32 over at most
// 1,024 cells and in float64 beyond. Returns the largest |v| that was met. Elements must be contiguous along cells or dims.
// False through `done` when the type or the layout has no kernel here.
float weigh_values(const WeighTask& task, std::span<double> sum, std::span<double> magnitude, bool* done);

} // namespace attnscope::attention
