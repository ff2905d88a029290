// Queries and keys as they were captured, as numbers.
#pragma once

#include "arrays.h"
#include "recording_pool.h"

#include <cstdint>
#include <vector>

namespace attnscope::python {

// (columns, KV heads, head_dim) float32: exact for f32, f16 and bf16; what the engine's own to_float gives for quantised types.
Array<float> layer_keys(RecordingPool& pool, int32_t layer);
// (tokens, heads, head_dim) float32.
Array<float> layer_queries(RecordingPool& pool, int32_t layer, const std::vector<int64_t>& tokens);

} // namespace attnscope::python
