// What a request for rows comes down to once every argument has been checked. Requests may come from
// recordings, which are hostile input: nothing downstream of a plan checks again.
#pragma once

#include <attnscope/rows.h>

#include <cstdint>
#include <vector>

namespace attnscope::attention {

// A run of columns that are visible and whose keys lie evenly spaced: row r is the key of column `column +
// r`.
struct KeySegment {
    int64_t column = 0;
    int64_t n = 0;
    const uint8_t* data = nullptr;
    size_t stride = 0;
};

// How the dot products of a pair of types are taken.
enum class DotWay {
    float32, // Q and K are converted to float32, exactly, and multiplied by our own kernels
    engine,  // both stay as they are and ggml's vec_dot multiplies them: quantised types, and types whose order of
             // additions in the llama.cpp in use our kernels do not have
};

struct RowsPlan {
    DotWay way = DotWay::float32;
    int32_t group = 1;                // query heads that share a KV head
    size_t q_head_bytes = 0;          // one head of Q
    size_t k_head_bytes = 0;          // one head of K
    std::vector<KeySegment> segments; // ascending; exactly the visible columns
};

// Can rows of this layer be computed at all? The plan of a request without its segments.
Result<RowsPlan> plan_layer(const LayerInfo& layer, bool batched);

// Errors as documented at attention_rows. `out_size` and `lse_size` are the elements the caller provides.
Result<RowsPlan> plan_rows(const RowsRequest& request, size_t out_size, size_t lse_size);

} // namespace attnscope::attention
