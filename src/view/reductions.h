// One token's answer, put together from its rows or from their mean.
#pragma once

#include "view/selection.h"

#include <attnscope/attention_request.h>

#include <cstdint>
#include <span>

namespace attnscope::view {

// Most numbers that an answer may have.
constexpr size_t max_answer_floats = size_t(1) << 31;

// An answer without its values: its columns and its shape. invalid_argument where it would be too large.
Result<AttentionAnswer> start_answer(const AttentionRequest& request, const SelectedRows& selection, int64_t index,
                                     int64_t n_columns);
size_t n_values(const AttentionAnswer& answer);

// What a complete `row`, of the selection's `layer` and `head` (as places), adds to an answer that is made row by row:
// none, lookback_ratio, entropy, first_share. Does nothing for other reductions. Rows may come from several threads.
void take_row(const AttentionRequest& request, int64_t n_prompt, std::span<const float> row, size_t layer, size_t head,
              AttentionAnswer& answer);

// What is made of the mean over all selected rows (complete): mean, top_k, spans (is_of_mean). Nothing of others.
void take_mean(const AttentionRequest& request, std::span<const float> mean, AttentionAnswer& answer);

} // namespace attnscope::view
