// How probable the model found the token that was chosen, and others.
#pragma once

#include <attnscope/session.h>

#include <cstdint>
#include <span>

namespace attnscope::engine {

// Of `logits` (n_vocab). `n_top`: so many of the most probable ones, equal ones by their ids.
TokenProbabilities token_probabilities(std::span<const float> logits, int32_t token, int32_t n_top);

} // namespace attnscope::engine
