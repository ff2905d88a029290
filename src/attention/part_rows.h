// A token's rows from several threads, each of which has some of the keys: numerators, and what makes rows of them.
//
// softmax over keys that are split into parts p, as in the merging of parts of flash attention (Dao et al. 2022, arXiv 2205.14135):
//   m_p = max of the part's scores, e_j = exp(s_j - m_p), d_p = sum of the part's e_j
//   M = max_p m_p, D = sum_p d_p exp(m_p - M);  the weight of key j of part p is e_j exp(m_p - M) / D
#pragma once

#include "attention/dots.h"
#include "attention/kernels/simd.h"
#include "attention/plan.h"

#include <attnscope/types.h>

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace attnscope::attention {

struct PartRequest {
    const LayerInfo* layer = nullptr; // without ALiBi
    const RowsPlan* plan = nullptr;   // plan_layer(*layer, false)
    const uint8_t* q = nullptr;       // (n_head, head_dim) in layer->q_type
    // key 0: (n_head_kv, head_dim) in layer->k_type; the next one lies k_stride bytes further
    const uint8_t* k = nullptr;
    size_t k_stride = 0;
    std::span<const Range> keys; // this part's: ascending, disjoint
    float* numerators = nullptr; // out: (n_head, stride), e_j of this part's keys; nothing else is written
    size_t stride = 0;
};

// What the other parts must know of one part of a row.
struct PartShare {
    float max = -std::numeric_limits<float>::infinity(); // m_p; -inf without keys
    double sum = 0;                                      // d_p
};

// `shares`: out, (n_head). `q`: the thread's memory, kept from call to call. Scores are added in whichever order is fastest: for
// what is made of many rows. Nothing is checked.
void part_rows(const RowKernels& kernels, const PartRequest& request, std::span<PartShare> shares, FloatQueries& q);

// M and D of one head, part by part; then every part's factor.
class PartSum {
public:
    explicit PartSum(const float* sink = nullptr) {
        if (sink) add({*sink, 1.0});
    }
    void add(const PartShare& part);
    float factor(float max) const;      // exp(m_p - M) / D; 0 where nothing is seen
    double sum() const { return sum_; } // D

private:
    float max_ = -std::numeric_limits<float>::infinity();
    double sum_ = 0;
};

// sums[j] += sum over r of factors[r] * rows[r * stride + j], that sum in float32.
void add_rows(const RowKernels& kernels, const float* rows, size_t stride, std::span<const float> factors,
              std::span<double> sums);

// `count` of the visible keys, from the `first`-th on.
void keys_of_part(std::span<const Range> visible, int64_t first, int64_t count, std::vector<Range>& part);

} // namespace attnscope::attention
