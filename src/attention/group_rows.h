// Rows of the query heads that share one KV head, from keys laid out for that: what live attention is computed from.
#pragma once

#include "attention/dots.h"
#include "attention/kernels/simd.h"
#include "attention/plan.h"

#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::attention {

// Keys lie in chunks of this many columns. In a chunk, keys of one layer and KV head are together: floating-point ones in
// tiles (TileTask), quantised ones one after another.
constexpr int64_t chunk_columns = 256;
bool keys_in_tiles(DType type);

struct GroupRequest {
    const LayerInfo* layer = nullptr;
    const RowsPlan* plan = nullptr;         // plan_layer(*layer, batched)
    const uint8_t* q = nullptr;             // (n_head, head_dim) in layer->q_type
    std::span<const uint8_t* const> chunks; // chunk i holds columns [i * chunk_columns, (i + 1) * chunk_columns)
    size_t chunk_offset = 0;                // of this layer's and KV head's keys in every chunk
    std::span<const Range> visible;         // ascending, disjoint, inside [0, n_columns)
    int64_t n_columns = 0;                  // every column below it has a key in the chunks
    int32_t position = 0;                   // as in RowsRequest
    std::span<const int32_t> positions;
    int32_t head_begin = 0; // query heads [head_begin, head_end), all served by one KV head
    int32_t head_end = 0;
    bool batched = false;
    bool any_order = false; // TileTask::any_order: for what is made of many rows
};

// One thread's memory for rows of a group, kept from call to call.
struct GroupRows {
    size_t stride = 0;         // floats from one row to the next: n_columns rounded up to whole tiles
    std::vector<float> values; // (head_end - head_begin, stride), of each row the first n_columns count
    FloatQueries q;
    std::vector<uint8_t> keys; // one tile's, one after another

    const float* row(int32_t i) const { return values.data() + static_cast<size_t>(i) * stride; }
};

// Makes room for rows of at most `n_heads` heads, so that group_rows allocates nothing for what is no larger.
void reserve_group_rows(GroupRows& rows, int32_t n_heads, int32_t head_dim, int64_t n_columns);

// Dot products of the heads with the visible columns (and with others of the same tiles), into the rows of
// group_rows(). Instead of several heads of a token, `q` may hold the same head of several tokens, one after another.
void group_dots(const RowKernels& kernels, const GroupRequest& request, GroupRows& rows);

// Bit for bit what attention_rows gives, but for any_order. Nothing is checked: the caller has checked the request.
void group_rows(const RowKernels& kernels, const GroupRequest& request, GroupRows& rows);

} // namespace attnscope::attention
