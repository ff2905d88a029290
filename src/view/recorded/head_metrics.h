// What kind of head is this? One number a head and metric, averaged over the rows of a recording. With a[i][j] the weight that
// the query of token i gives to column j, i >= 1, t[i] the vocabulary id of token i:
//
//   self               mean over i of a[i][i]
//   previous           mean over i of a[i][i-1]                        the previous-token head of Elhage et al. 2021 (A Mathematical
//                                                                      Framework for Transformer Circuits)
//   first              mean over i of a[i][0]                          the attention sink of Xiao et al. 2023 (arXiv 2309.17453)
//   local              mean over i of sum_{j > i - 8} a[i][j]
//   entropy            mean over i of -sum_j a ln a, nats              Clark et al. 2019 (arXiv 1906.04341), section 3.3
//   distance           mean over i of D_i = sum_j a (i - j)            the mean query-key distance, in tokens
//   distance_variance  mean over i of sum_j a (i - j)^2 - D_i^2
//   induction          mean over those i whose token occurred before, of sum a[i][j] over the j <= i with t[j-1] = t[i], j - 1 < i:
//                      the prefix matching score of Olsson et al. 2022 (arXiv 2209.11895)
//   retrieval          mean over those i whose next token lies in columns 0 .. i, of sum a[i][j] over the j with t[j] = t[i+1]:
//                      the copy score of retrieval heads, Wu et al. 2024 (arXiv 2404.15574), with weights instead of the largest one
//
// Of an encoder and its decoder (LayerRole) each is a text of its own: i >= b + 1, column b instead of 0, and occurrences among its own
// tokens alone, b the first one's index. Cross attention looks from one text into another: i is every token of the decoder, first a[i][0],
// retrieval over the j of the encoder's text; self, previous, local, distance, its variance and induction are NaN.
//
// Rows of tokens that were recorded without queries are left out. Columns that a token cannot see weigh 0. NaN where no row counts.
// Sums are float64; the logarithm of entropy is float32, good to 2e-7 of a weight.
#pragma once

#include "view/recorded/tensors.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::view {

enum Metric {
    m_self,
    m_previous,
    m_first,
    m_local,
    m_entropy,
    m_distance,
    m_distance_variance,
    m_induction,
    m_retrieval,
    n_metrics
};
const char* metric_name(int metric);

struct HeadMetrics {
    int32_t n_layer = 0;
    int32_t n_head = 0;                                // the largest of any layer
    int64_t n_rows = 0;                                // tokens that were counted, of the head that has most
    std::array<std::vector<double>, n_metrics> values; // (n_layer, n_head); NaN where there is no such head
};

// One pass: every row of every head is computed once. `progress` gets 0..1 and may stop it (io).
Result<HeadMetrics> head_metrics(const RecordedTensors& tensors, const Progress& progress = {});

// The kind of a head and the rule that names it; empty where no rule does.
std::string head_kind(const HeadMetrics& metrics, size_t head);
std::vector<std::pair<std::string, std::string>> head_rules();

} // namespace attnscope::view
