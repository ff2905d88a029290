// What positions of a recording score, and what a policy would keep by it.
#pragma once

#include "server/http/request_fields.h"
#include "view/recorded/tensors.h"

#include <attnscope/error.h>

#include <cstdint>
#include <string>

namespace attnscope::server {

constexpr int32_t score_window_rows = 32;

// The scores of position_scores.h; null of tokens that no selected layer can look at. not_found where there are no rows for them.
Result<Json> scores_answer(const view::RecordedTensors& tensors, const view::Selection& selection);

// The tokens that a policy keeps. Those that no selected layer can look at stay, and are told as "unscored": [[begin, end], ...].
// not_found where there are no rows to judge by.
Result<Json> prune_answer(const view::RecordedTensors& tensors, const view::Selection& selection,
                          const std::string& policy, int64_t budget);

} // namespace attnscope::server
