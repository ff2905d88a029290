// The learned bias of T5 as a table by distance: what it adds follows from buckets of distances alone.
#pragma once

#include "capture/graph/attention_graph.h"

#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <string>

namespace attnscope::capture {

// The bucket of distance `column - query`, as llama_relative_position_bucket computes it (Raffel et al. 2020). `both_ways`: an
// encoder's, which tells before from behind.
int32_t relative_bucket(int64_t distance, int64_t n_buckets, bool both_ways);

// Reads the bias of a layer into `info` (bias, bias_reach). False: it is of a type that cannot be read.
bool read_relative_bias(const AttentionNode& node, LayerInfo& info);

// Are `buckets` (n_kv, n_query), as the graph was given them, those of the distances between these positions? Tells of what is
// visible only: other cells hold anything. `visible`: of query j, cells; `position`: of a cell.
bool buckets_fit(const AttentionNode& node, const uint8_t* buckets, std::span<const int32_t> queries,
                 std::span<const Ranges> visible, std::span<const int32_t> cells);

} // namespace attnscope::capture
