// Rows of many tokens of a recording in memory, each key read once for a block of them (attention/block_rows.h): what is asked of all
// rows of a head is asked here. Weights differ from RecordedTensors::rows by the order of a score's additions.
#pragma once

#include "attention/block_rows.h"
#include "view/recorded/tensors.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace attnscope::view {

// Rows of tokens [first, first + n), all of which have queries. Called by several threads, never by two at once for the same tokens.
using TakeBlock = std::function<void(int32_t head, int64_t first, size_t n, const attention::BlockRows& rows)>;

// Rows of `tokens` of the heads of one layer, on all cores. `go_on` (may be empty) is asked after each block; io when it says no.
// has_layer(layer) must hold.
Result<void> each_block(const RecordedTensors& tensors, int32_t layer, Range heads, Range tokens, const TakeBlock& take,
                        const std::function<bool()>& go_on = {});

// The natural logarithm of the denominator of row i of a block of n: the sum of exp(score). NaN where it sees nothing. has_parts must
// hold: a weight is exp(score - max) * factor of its part.
double denominator(const attention::BlockRows& rows, size_t i, size_t n);

// Row i of a block as weights, columns [0, out.size()).
void copy_row(const attention::BlockRows& rows, size_t i, std::span<float> out);

} // namespace attnscope::view
