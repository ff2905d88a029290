// The witness: P.V from our rows and the engine's V must be the engine's own attention output.
#pragma once

#include "tap/collector.h"

#include <attnscope/types.h>

namespace attnscope::verify {

// Computes one head's row from the captured Q and the cache's K, multiplies it with the engine's V in float64 and
// compares with the engine's output. The tolerance is derived from what the kernel rounds (docs/fidelity.md):
// u = 2^-11 (half precision), n visible columns, A = |sum_j p_j |v_j||_2, all relative to |output|_2:
//   half-precision accumulation of V (flash attention on a CPU, f16 V):   4 u sqrt(n) A    (Higham & Mary 2019)
//   weights rounded to half precision (no flash attention, f16 V):        u A + n 2^-25 max|v|
//   Q multiplied unrounded while we keep it rounded (tiled flash attention): 2 d A, d = 4 u scale |q| max|k| / sqrt(dim)
//   float32 arithmetic everywhere else:                                   1e-5 A
Witness witness_head(const tap::HeadSample& sample);

} // namespace attnscope::verify
