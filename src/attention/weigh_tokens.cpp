#include "attention/weigh_tokens.h"

#include "attention/engine_arithmetic.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace attnscope::attention {

namespace {

constexpr int64_t block_cells = 32; // of 128 dimensions: a third of a first-level cache, the sums take another
constexpr int64_t strip_cells = 1024;

bool is_float(DType type) {
    return type == DType::f32 || type == DType::f16 || type == DType::bf16;
}

float* floats(std::vector<TokenSums::Line>& lines, size_t n) {
    const size_t n_lines = n / 16;
    if (lines.size() < n_lines) lines.resize(n_lines);
    return lines.data()->f;
}

// V of cells [first, first + n), contiguous along dims, into (n, stride).
void read_along_dims(const RowKernels& kernels, const TokenValues& v, int64_t first, int64_t n, float* to,
                     size_t stride) {
    const uint8_t* from = v.v + static_cast<size_t>(first) * v.cell_stride;
    if (v.type == DType::f16) return kernels.read_f16(from, v.cell_stride, n, v.dim, to, stride);
    const auto to_float = engine_arithmetic(v.type).to_float;
    for (int64_t j = 0; j < n; ++j, from += v.cell_stride, to += stride) {
        if (is_float(v.type))
            to_floats(v.type, from, to, v.dim);
        else
            to_float(from, to, v.dim);
    }
}

void read_along_cells(const TokenValues& v, int64_t first, int64_t n, float* to, size_t stride,
                      std::vector<float>& turned) {
    turned.resize(static_cast<size_t>(v.dim) * block_cells);
    const auto dim = static_cast<size_t>(v.dim);
    for (size_t d = 0; d < dim; ++d) {
        to_floats(v.type, v.v + d * v.dim_stride + static_cast<size_t>(first) * v.cell_stride,
                  turned.data() + d * block_cells, n);
    }
    constexpr size_t side = 16; // squares of whole cache lines
    for (size_t d0 = 0; d0 < dim; d0 += side) {
        const size_t d_end = std::min(dim, d0 + side);
        for (size_t j = 0; j < static_cast<size_t>(n); ++j) {
            for (size_t d = d0; d < d_end; ++d) to[j * stride + d] = turned[d * block_cells + j];
        }
    }
}

float largest_of(const float* x, size_t n) {
    float top[8] = {};
    for (size_t i = 0; i + 8 <= n; i += 8) { // n is a multiple of weigh_floats
        for (size_t l = 0; l < 8; ++l) top[l] = std::fabs(x[i + l]) > top[l] ? std::fabs(x[i + l]) : top[l];
    }
    return *std::max_element(top, top + 8);
}

// What was added in float32 so far goes to the sums in float64.
void add_up(size_t n_tokens, size_t stride, float* partial, TokenSums& sums) {
    for (size_t i = 0; i < 2 * n_tokens; ++i) {
        for (size_t d = 0; d < sums.dim; ++d)
            sums.sums[i * sums.dim + d] += static_cast<double>(partial[i * stride + d]);
    }
    std::fill_n(partial, 2 * n_tokens * stride, 0.0f);
}

} // namespace

bool values_readable(const TokenValues& v) {
    if (v.dim <= 0 || v.dim % dtype_block(v.type) != 0) return false;
    if (!is_float(v.type)) return engine_arithmetic(v.type).to_float != nullptr;
    const size_t size = dtype_row_bytes(v.type, 1);
    return v.dim_stride == size || v.cell_stride == size;
}

void weigh_tokens(const RowKernels& kernels, const TokenValues& v, const TokenRows& rows, size_t n_tokens,
                  bool with_largest, TokenSums& sums) {
    sums.dim = static_cast<size_t>(v.dim);
    const size_t stride = (sums.dim + weigh_floats - 1) / weigh_floats * weigh_floats;
    sums.sums.assign(2 * n_tokens * sums.dim, 0.0);
    sums.largest.assign(n_tokens, 0.0f);
    float* const partial = floats(sums.partial, 2 * n_tokens * stride);
    float* const block = floats(sums.block, static_cast<size_t>(block_cells) * stride);
    std::fill_n(partial, 2 * n_tokens * stride, 0.0f);
    std::fill_n(block, static_cast<size_t>(block_cells) * stride, 0.0f); // the padding stays so
    const bool along_dims = !is_float(v.type) || v.dim_stride == dtype_row_bytes(v.type, 1);

    std::array<const float*, max_tokens_together> weights{};
    std::array<float*, max_tokens_together> to{};
    int64_t in_strip = 0;
    for (const SharedColumns& s : rows.shared) {
        for (int64_t at = s.begin; at < s.end;) {
            if (in_strip == strip_cells) add_up(n_tokens, stride, partial, sums), in_strip = 0;
            const int64_t n = std::min({block_cells, s.end - at, strip_cells - in_strip});
            if (along_dims)
                read_along_dims(kernels, v, at, n, block, stride);
            else
                read_along_cells(v, at, n, block, stride, sums.turned);
            const float top = with_largest ? largest_of(block, static_cast<size_t>(n) * stride) : 0.0f;
            WeighBlock task;
            task.v = block;
            task.stride = stride;
            task.n = n;
            task.weights = weights.data();
            task.sums = to.data();
            // the heads of a cell lie side by side: the hardware does not guess the next row
            if (along_dims && at + 2 * n <= s.end) {
                task.ahead = v.v + static_cast<size_t>(at + n) * v.cell_stride;
                task.ahead_stride = v.cell_stride;
                task.ahead_bytes = dtype_row_bytes(v.type, v.dim);
            }
            for (size_t t = 0; t < n_tokens; ++t) {
                if (!(s.tokens >> t & 1)) continue;
                sums.largest[t] = std::max(sums.largest[t], top);
                weights[static_cast<size_t>(task.n_rows)] = rows.row(t) + at;
                to[static_cast<size_t>(task.n_rows)] = partial + 2 * t * stride;
                ++task.n_rows;
            }
            kernels.weigh(task);
            at += n;
            in_strip += n;
        }
    }
    add_up(n_tokens, stride, partial, sums);
}

} // namespace attnscope::attention
