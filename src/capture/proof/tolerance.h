// How far P.V from our rows may lie from the engine's output.
#pragma once

#include "attention/dots.h"
#include "capture/collector.h"

#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::capture {

// How far the kernel's scores may lie from ours where it multiplies Q in float32 and we keep Q rounded. Keeps its
// memory from call to call.
class ScoreErrors {
public:
    // Of tokens that share layer, head, keys and kernel; `rows`: each one's weights by cell. Valid until the next call.
    std::span<const double> of(std::span<const capture::HeadSample> samples, std::span<const float* const> rows);

private:
    std::vector<double> errors_;
    std::vector<int64_t> cells_;   // whose keys matter to some token
    std::vector<uint32_t> tokens_; // (n_cells): to which, as bits; 0 between calls
    std::vector<float> q_squares_; // (tokens, head_dim)
    attention::FloatQueries q_;    // the same, aligned
    std::vector<float> k_;         // (some cells, head_dim): squares of the keys
    std::vector<float> dots_;      // (tokens, some cells)
};

struct Weighed {
    std::span<const double> sum;       // (head_dim_v): sum_j p_j v_j
    std::span<const double> magnitude; // (head_dim_v): sum_j p_j |v_j|
    double largest = 0;                // max |v_j|
    double score_error = 0;
};

// Sets the witness's error and tolerance. The tolerance is derived from what the kernel rounds (docs/fidelity.md):
// u = 2^-11 (half precision), n visible columns, A = |sum_j p_j |v_j||_2, all relative to |output|_2:
//   half-precision accumulation of V (flash attention on a CPU, f16 V):   4 u sqrt(n) A    (Higham & Mary 2019)
//   weights rounded to half precision (no flash attention, f16 V):        u A + n 2^-25 max|v|
//   Q multiplied unrounded while we keep it rounded (tiled flash attention): 2 d A, d = 4 u scale |q| max|k| / sqrt(dim)
//   weights rounded to bf16 (no flash attention, bf16 V):                  2^-8 A
//   f32 V that the engine rounds to half precision (flash attention):     u A
//   float32 arithmetic everywhere else:                                   1e-5 A
void compare(const capture::HeadSample& sample, const Weighed& ours, Witness& witness);
// Does the tolerance of such a sample take Weighed::largest?
bool takes_largest(const capture::HeadSample& sample);

} // namespace attnscope::capture
