// Rows computed plainly in float64, and random layers to compute them for.
#pragma once

#include "attention/kernels/simd.h"

#include <attnscope/rows.h>

#include <cstdint>
#include <random>
#include <vector>

namespace attnscope::test {

// Everything a RowsRequest borrows.
struct Sample {
    LayerInfo layer;
    std::vector<uint8_t> q;                  // (n_head, head_dim) in q_type
    std::vector<std::vector<uint8_t>> keys;  // (column): (n_head_kv, head_dim) in k_type
    std::vector<std::vector<uint8_t>> store; // what `blocks` points into
    std::vector<KeyBlock> blocks;
    Ranges visible;
    std::vector<int32_t> positions;
    int32_t position = 0;

    int64_t n_columns() const { return static_cast<int64_t>(keys.size()); }
    RowsRequest request() const;
    // Lays the keys out as blocks of random length with gaps of random size between rows.
    void lay_out(std::mt19937& rng);
};

DType partner_of(DType k_type); // the type Q has beside keys of k_type on the CPU
std::vector<uint8_t> encode(DType type, const std::vector<float>& x);

// Standard normal Q and K. `layer` needs its types and sizes; everything is visible, in one block.
Sample make_sample(const LayerInfo& layer, int64_t n_columns, std::mt19937& rng);

struct ReferenceRows {
    std::vector<double> rows; // (n_head, n_columns)
    std::vector<double> lse;  // (n_head)
};
ReferenceRows reference_rows(const Sample& sample);

// A layer whose Q is in the type that goes with k_type, scaled by 1 / sqrt(head_dim).
LayerInfo make_layer(DType k_type, int32_t n_head_kv, int32_t group, int32_t head_dim);
// Ascending ranges with gaps inside [0, n).
Ranges random_ranges(int64_t n, std::mt19937& rng);
// Every set of kernels this machine can run.
std::vector<const attention::RowKernels*> all_kernels();
// Fails the test unless every set of kernels gives the reference's rows within 1e-6, its denominators within
// float32 rounding, and exact zeros where nothing is visible.
void expect_reference(const Sample& sample);

} // namespace attnscope::test
