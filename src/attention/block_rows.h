// Rows of one query head for a block of tokens, each key read once for all of them: what maps and means of many tokens
// are made of.
#pragma once

#include "attention/group_rows.h"
#include "attention/kernels/block.h"

#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::attention {

struct BlockQuery {
    const uint8_t* q = nullptr;     // (head_dim) in layer->q_type: the head's query
    std::span<const Range> visible; // ascending, disjoint, inside [0, n_columns)
    int32_t position = 0;           // with ALiBi only
};

struct BlockRequest {
    const LayerInfo* layer = nullptr;
    const RowsPlan* plan = nullptr; // plan_layer(*layer, batched)
    std::span<const BlockQuery> queries;
    int32_t head = 0;                       // query head
    std::span<const uint8_t* const> chunks; // as in GroupRequest; those that no query sees may be null
    size_t chunk_offset = 0;
    int64_t n_columns = 0;
    std::span<const int32_t> positions;
    bool batched = false;
    // Weights bit for bit as attention_rows gives them; else scores are added in whichever order is fastest, and
    // exponentials in float32 by chunks.
    bool exact = false;
};

// What the queries see of one chunk. Columns of no piece are seen by none of them.
struct BlockPiece {
    int64_t begin = 0;
    int64_t end = 0;
    const float* factors = nullptr; // one a query
};

// One thread's memory, kept from call to call. The weight of query i at column j of piece p is row(i)[j] *
// p.factors[i]; where the query does not see the column that is exactly 0.
struct BlockRows {
    std::vector<BlockPiece> pieces; // ascending
    const float* row(size_t i) const { return group.values.data() + i * group.stride; }
    size_t stride() const { return group.stride; }

    // what block_rows works with
    struct alignas(64) Line {
        float f[16];
    };
    struct Part { // of one query in one piece: see attention/part_rows.h
        float max = 0;
        double sum = 0;
        int64_t n_seen = 0;
    };
    GroupRows group;
    std::vector<Line> q, scores, scratch;
    std::vector<Part> parts;      // (pieces, queries)
    bool has_parts = false;       // `parts` are of these rows: not where each was computed as a whole
    std::vector<float> factors;   // (pieces, queries)
    std::vector<uint8_t> q_bytes; // (queries, head_dim)
    std::vector<size_t> at;       // of each query: its first range that ends beyond the columns in hand
    std::vector<Range> visible;   // of all queries together
};

// How many queries to give at once: enough that reading the keys costs little, few enough that their rows stay near.
size_t block_queries(int64_t n_columns, bool exact);

// Nothing is checked: the caller has checked the request. `block`: for tests; block_kernels() otherwise.
void block_rows(const RowKernels& kernels, const BlockKernels& block, const BlockRequest& request, BlockRows& rows);

} // namespace attnscope::attention
