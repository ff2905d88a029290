// P.V as the CPU's flash attention adds it where V is f16: one cell after the other, each sum rounded to half precision.
#pragma once

#include "capture/collector.h"

#include <cstdint>
#include <span>

namespace attnscope::capture {

// The bound on half-precision sums takes their errors for independent. Where one token stands again and again they are not: equal values
// with equal weights are rounded the same way each time, and the errors of a few hundred add up beyond the bound. What the kernel
// makes of `row` (weights by cell) is then computed as it does: how far the output lies from the nearest of its ways of sharing the cells
// out among threads, relative to the output. Takes much longer than a proof, and is for what the bound did not prove.
float error_of_half_sums(const HeadSample& sample, std::span<const float> row);
// In how many ways cells may have been shared out: each is as much work.
int64_t ways_to_share(const HeadSample& sample);

// For the proofs of one thread, one after the other. A capture that is wrong fails all of them, however its sums are added, while the
// program waits: what is added in vain comes out of an account, and while that is empty nothing is added.
class HalfSums {
public:
    // So many cells, counted once a way, are added in vain, and one proof's beyond; then a quarter of the cells of proofs that hold.
    static constexpr int64_t most_in_vain = int64_t{1} << 20;

    // Of every proof. Takes that error for a witness's where it is smaller and the one of `compare` is beyond its tolerance.
    void look_again(const HeadSample& sample, std::span<const float> row, Witness& witness);
    int64_t in_vain() const { return in_vain_; } // cells so far

private:
    void earn(int64_t n_cells);

    int64_t left_ = most_in_vain;
    int64_t in_vain_ = 0;
};

} // namespace attnscope::capture
