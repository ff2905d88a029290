// Rows of one query head for several tokens, from one pass over the keys they share: what proofs of prompts are made of.
#pragma once

#include "attention/dots.h"
#include "attention/kernels/simd.h"
#include "attention/plan.h"

#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::attention {

constexpr size_t max_tokens_together = 16;

// Columns that the same tokens see.
struct SharedColumns {
    int64_t begin = 0;
    int64_t end = 0;
    uint32_t tokens = 0; // bit i: token i sees them; never 0
};

// What each of at most max_tokens_together tokens sees (ascending, disjoint), cut where that changes; ascending.
void share_columns(std::span<const std::span<const Range>> visible, std::vector<SharedColumns>& shared);

struct TokenRowsRequest {
    struct Token {
        const uint8_t* q = nullptr;     // (head_dim) in layer->q_type: the head's query
        std::span<const Range> visible; // as in RowsRequest
        int32_t position = 0;
    };
    const LayerInfo* layer = nullptr;
    const RowsPlan* plan = nullptr; // plan_layer(*layer, batched)
    std::span<const Token> tokens;  // at most max_tokens_together
    int32_t head = 0;               // query head
    const uint8_t* k = nullptr;     // of its KV head, column 0; the next column's lies k_stride bytes further
    size_t k_stride = 0;
    int64_t n_columns = 0;
    std::span<const int32_t> positions; // as in RowsRequest
    bool batched = false;
};

// One thread's memory for them, kept from call to call.
struct TokenRows {
    size_t stride = 0;         // floats from one row to the next
    std::vector<float> values; // (tokens, stride), of each row the first n_columns count
    std::vector<SharedColumns> shared;
    FloatQueries q;
    std::vector<uint8_t> q_bytes; // (tokens, head_dim) in layer->q_type

    const float* row(size_t token) const { return values.data() + token * stride; }
};

// Bit for bit what attention_rows gives for each token. Nothing is checked: the caller has checked the requests.
void token_rows(const RowKernels& kernels, const TokenRowsRequest& request, TokenRows& rows);

} // namespace attnscope::attention
