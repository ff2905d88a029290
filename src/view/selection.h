// The rows that are selected, as work: layer by layer, and in a layer by KV head.
#pragma once

#include <attnscope/attention_request.h>

#include <cstdint>
#include <vector>

namespace attnscope::view {

// Consecutive query heads that one KV head serves.
struct HeadRun {
    int32_t begin = 0;
    int32_t end = 0;
    int32_t kv_head = 0;
    int32_t place = 0; // of the first in the request's order
};

struct LayerWork {
    int32_t layer = 0; // index into Geometry::layers
    std::vector<HeadRun> runs;
    int32_t n_rows = 0;
};

struct SelectedRows {
    std::vector<LayerWork> layers; // in the request's order
    int32_t n_heads = 0;           // selected heads: rows of each layer, those that do not exist included
    int64_t n_rows = 0;            // rows that exist
    int32_t max_run = 0;           // the longest run
    int32_t max_head_dim = 0;      // of the selected layers
};

// Those that a token has, which sees `visible`: of the encoder's layers a decoder's token has none.
int64_t rows_of_token(const SelectedRows& selection, const Geometry& geometry, const std::vector<Ranges>& visible);

// The selection must have passed check_selection.
SelectedRows select_rows(const RowSelection& rows, const Geometry& geometry);

} // namespace attnscope::view
