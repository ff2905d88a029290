// P.V as the CPU's flash attention adds it where V is f16: one cell after the other, each sum rounded to half precision.
#pragma once

#include "capture/collector.h"

#include <span>

namespace attnscope::capture {

// The bound on half-precision sums takes their errors for independent. Where one token stands again and again they are not: equal values
// with equal weights are rounded the same way each time, and the errors of a few hundred add up beyond the bound. What the kernel
// makes of `row` (weights by cell) is then computed as it does: how far the output lies from the nearest of its ways of sharing the cells
// out among threads, relative to the output. Takes much longer than a proof, and is for what the bound did not prove.
float error_of_half_sums(const HeadSample& sample, std::span<const float> row);

// Takes that error for a witness's where it is smaller and the one of `compare` is beyond its tolerance.
void look_again(const HeadSample& sample, std::span<const float> row, Witness& witness);

} // namespace attnscope::capture
