// Blocks of queries in plain C++: what every machine can run, and what the others are tested against.
#include "attention/kernels/block.h"
#include "attention/kernels/simd.h"
#include "attention/numbers.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attnscope::attention {

namespace {

constexpr int32_t width = 4;

template <class Elements> void dots(const BlockTask& t) {
    constexpr auto columns = static_cast<size_t>(tile_columns);
    const auto dim = static_cast<size_t>(t.head_dim);
    for (int64_t tile = 0; tile < t.n_tiles; ++tile) {
        const uint8_t* const from = t.tiles + static_cast<size_t>(tile) * dim * columns * Elements::size;
        for (size_t i = 0; i < dim * columns; ++i) t.scratch[i] = Elements::at(from, static_cast<int64_t>(i));
        for (int32_t i = 0; i < t.n_q; i += width) {
            const float* const q = t.q + static_cast<size_t>(i) * dim;
            float sum[width][columns] = {};
            for (size_t d = 0; d < dim; ++d) {
                for (size_t r = 0; r < size_t{width}; ++r) {
                    for (size_t c = 0; c < columns; ++c) sum[r][c] += q[d * width + r] * t.scratch[d * columns + c];
                }
            }
            for (size_t r = 0; r < size_t{width}; ++r)
                std::copy_n(sum[r], columns,
                            t.out + (static_cast<size_t>(i) + r) * t.out_stride + static_cast<size_t>(tile) * columns);
        }
    }
}

float numerators(const float* x, int64_t n, float scale, float* to, double* sum) {
    float max = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < n; ++i) max = x[i] * scale > max ? x[i] * scale : max;
    *sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        to[i] = std::exp(x[i] * scale - max);
        *sum += static_cast<double>(to[i]);
    }
    return max;
}

void fold(const float* rows, size_t stride, const float* factors, int64_t n_rows, int64_t n, float* sums) {
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t j = 0; j < n; ++j)
            sums[j] += factors[r] * rows[static_cast<size_t>(r) * stride + static_cast<size_t>(j)];
    }
}

void scale(const float* from, float factor, int64_t n, float* to) {
    for (int64_t j = 0; j < n; ++j) to[j] = factor * from[j];
}

} // namespace

const BlockKernels& scalar_block_kernels() {
    static constexpr BlockKernels kernels{
        "scalar", width, dots<F16Elements>, dots<Bf16Elements>, dots<F32Elements>, numerators, fold, scale};
    return kernels;
}

const BlockKernels& block_kernels() {
    static const BlockKernels& chosen = avx512_block_kernels() ? *avx512_block_kernels()
                                        : avx2_block_kernels() ? *avx2_block_kernels()
                                                               : scalar_block_kernels();
    return chosen;
}

} // namespace attnscope::attention
