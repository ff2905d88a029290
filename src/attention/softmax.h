// From dot products to weights: one row at a time, in place.
#pragma once

#include "attention/kernels/simd.h"

#include <attnscope/types.h>

#include <cstdint>
#include <span>

namespace attnscope::attention {

struct SoftmaxTask {
    const LayerInfo* layer = nullptr;
    std::span<const Range> visible; // ascending, disjoint, below n_columns; neighbours may touch
    int64_t n_columns = 0;
    int32_t position = 0;               // of the query; with a bias by distance only
    std::span<const int32_t> positions; // of the columns; with a bias by distance only
};

// `row` holds dot products where columns are visible and anything elsewhere; afterwards weights, 0 elsewhere, as
// attention_rows promises. Returns the natural logarithm of the denominator. What comes out depends on which columns are
// visible and not on how their keys lie in memory.
float softmax_row(const RowKernels& kernels, const SoftmaxTask& task, int32_t head, float* row);

} // namespace attnscope::attention
