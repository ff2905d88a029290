// Weighted sums of V for the rows of several tokens, from one pass over the values they share.
#pragma once

#include "attention/token_rows.h"

#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::attention {

struct TokenValues {
    const uint8_t* v = nullptr;             // element (dim 0, cell 0)
    size_t cell_stride = 0, dim_stride = 0; // bytes
    DType type = DType::f16;
    int32_t dim = 0;
};

// Are the elements contiguous along dims (any type) or along cells (floating point)? Others are not read here.
bool values_readable(const TokenValues& values);

// Sums of several tokens, and one thread's memory for them, kept from call to call.
struct TokenSums {
    struct alignas(64) Line {
        float f[16];
    };
    size_t dim = 0;
    std::vector<double> sums;   // (tokens, 2, dim): sum_j p_j v_j and sum_j p_j |v_j|
    std::vector<float> largest; // (tokens): the largest |v| among the columns each sees, where asked for
    std::vector<Line> partial;  // (tokens, 2, padded dim)
    std::vector<Line> block;    // V of some cells, (cells, padded dim)
    std::vector<float> turned;  // the same as they lie in memory, where that is along cells

    std::span<const double> sum(size_t token) const { return std::span(sums).subspan(2 * token * dim, dim); }
    std::span<const double> magnitude(size_t token) const {
        return std::span(sums).subspan((2 * token + 1) * dim, dim);
    }
};

// Each row only weighs columns that its token sees. Products are added in float32 over at most 1,024 cells and in float64
// beyond. The values must be readable.
void weigh_tokens(const RowKernels& kernels, const TokenValues& values, const TokenRows& rows, size_t n_tokens,
                  bool with_largest, TokenSums& sums);

} // namespace attnscope::attention
