// The witness: P.V from our rows and the engine's V must be the engine's own attention output.
#pragma once

#include "attention/weigh_tokens.h"
#include "capture/collector.h"
#include "capture/proof/half_sums.h"
#include "capture/proof/tolerance.h"

#include <attnscope/types.h>

#include <span>
#include <vector>

namespace attnscope::capture {

// Computes one head's row from the captured Q and the cache's K, multiplies it with the engine's V in float64 and
// compares with the engine's output, within what tolerance.h allows.
Witness witness_head(const capture::HeadSample& sample, HalfSums& half_sums);

// witness_head() for several tokens at once: where they share a head, its keys and values are read once for all. Rows
// and fingerprints are bit for bit those of witness_head(); errors and tolerances agree within the rounding of float32
// sums. Keeps its memory from call to call; one thread at a time.
class Prover {
public:
    // At most capture::max_proofs_together samples, and as many witnesses.
    void operator()(std::span<const capture::HeadSample> samples, std::span<Witness> witnesses);
    int64_t added_in_vain() const { return half_sums_.in_vain(); } // HalfSums

private:
    void prove_together(std::span<const capture::HeadSample> samples, const attention::RowsPlan& plan,
                        std::span<Witness> witnesses);

    attention::TokenRows rows_;
    attention::TokenSums sums_;
    ScoreErrors scores_;
    HalfSums half_sums_;
    std::vector<attention::TokenRowsRequest::Token> tokens_;
    std::vector<int32_t> positions_;
};

} // namespace attnscope::capture
