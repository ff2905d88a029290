// Random tensor data, reproducible in any order: a piece of a tensor depends on its seed and its number only.
#pragma once

#include "models/model_plan.h"

#include <cstdint>
#include <span>

namespace attnscope::models {

// Elements that one piece holds; a multiple of every block size.
constexpr int64_t weights_piece = int64_t(1) << 19;

// Fills `out` with elements [piece * weights_piece, ...) of the tensor; out.size() says how many.
// f32, f16, q8_0 and q4_0 only.
void random_weights(const PlannedTensor& tensor, uint64_t seed, int64_t piece, std::span<uint8_t> out);

} // namespace attnscope::models
