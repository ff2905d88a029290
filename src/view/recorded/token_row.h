// Rows of one token from keys in memory: bit for bit what Recording::rows gives.
#pragma once

#include "view/recorded/keys.h"

#include <attnscope/error.h>
#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::view {

struct TokenAt {
    const Frame* frame = nullptr;       // what it sees
    const uint8_t* q = nullptr;         // Frame::q
    int64_t n_columns = 0;              // of its rows; at most the keys' size
    std::span<const int32_t> positions; // of the columns, where a layer is by_distance()
};

// Columns of a token's rows: its index + 1, or more where it sees later ones of its batch.
int64_t columns_of_rows(const Frame& frame);

// Heads of one layer, (heads, n_columns). `lse`: one a head, or empty. Columns are counted from the beginning of a chunk.
Result<void> layer_rows(const Geometry& geometry, const LayerTiles& tiles, const TokenAt& token, int32_t layer,
                        Range heads, std::span<float> out, std::span<float> lse = {}, size_t first_chunk = 0);

struct LayerHeads {
    int32_t layer = 0;
    Range heads;
};

// The mean or maximum over rows, (n_columns), as reduce_mean and reduce_max of all of them would give it; on all cores. Of
// each core the rows that share a KV head are in memory. Layers that are not read yet are read.
Result<void> reduced_row(const Geometry& geometry, RecordedKeys& keys, const TokenAt& token,
                         std::span<const LayerHeads> layers, bool max, std::vector<float>& out);

} // namespace attnscope::view
