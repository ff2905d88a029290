// From keys as they are captured to keys as group_rows reads them.
#pragma once

#include <attnscope/types.h>

#include <cstddef>
#include <cstdint>

namespace attnscope::attention {

// Puts `n` keys of one KV head, `stride` bytes apart, into columns [column, column + n) of its part of a chunk. column
// + n is at most chunk_columns.
void put_keys(const LayerInfo& layer, const uint8_t* keys, size_t stride, int64_t column, int64_t n,
              uint8_t* chunk_head);

} // namespace attnscope::attention
