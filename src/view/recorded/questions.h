// What a page asks of a recording beyond one row: who reads a token, pictures, scores, flows, what one head does. Pure functions
// of the tensors; each may be asked from any thread.
#pragma once

#include "view/recorded/tensors.h"

#include <attnscope/position_scores.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::view {

// Element i: the weight that token `token` + i gives to `token`; NaN where it has none of the selected rows. not_found where no row of
// the selection can look at the token (of an encoder and its decoder).
Result<std::vector<float>> column(const RecordedTensors& tensors, int64_t token, const Selection& selection);

// The mean over the rows that tell of tokens [begin, end): those that chose them, of tokens begin - 1 .. end - 2; of tokens that look
// both ways (an encoder's) their own. (end), or wider where the rows are. not_found: none has rows.
Result<std::vector<float>> flow(const RecordedTensors& tensors, const Selection& selection, int64_t begin, int64_t end);

// Attention rollout, Abnar and Zuidema 2020 (arXiv 2005.00928): v = e_t; for each layer from the last to the first
// v = v / 2 + v A_l / 2, with A_l the mean over the heads of the layer; averaged over the rows of flow(): (end), or wider where tokens
// see later ones. Layers without attention, or of the other half of an encoder and its decoder, pass v on. It needs every row that the
// span can reach: not_found where one was not kept, unsupported above `rollout_most` tokens.
constexpr int64_t rollout_most = 8192;
Result<std::vector<float>> rollout(const RecordedTensors& tensors, int64_t begin, int64_t end,
                                   const Progress& progress = {});

// The scores of position_scores.h over the rows that chose the generated tokens; over all rows where nothing was generated. not_found
// where there is none. What a score of a token is that no selected layer can look at (RecordedTensors::unseen_by) means nothing.
Result<PositionScores> position_scores(const RecordedTensors& tensors, const Selection& selection, int32_t window_rows);

struct WeightAt {
    int64_t query = 0, key = 0;
    float weight = 0;
};
struct TokenShare {
    int32_t token = -1; // vocabulary id
    double weight = 0;
};
constexpr size_t n_distance_bins = 20;
struct HeadDetail {
    std::vector<WeightAt>
        strongest; // largest first; one a query; without the first column where that takes most of the weight
    std::vector<TokenShare> queries, keys; // by the mean of the rows' largest weight; by the sum of what is received
    std::array<double, n_distance_bins> distance{}; // shares at distance 0, 1, 2-3, 4-7, ...; NaN: of cross attention
    bool skips_first = false;
};
Result<HeadDetail> head_detail(const RecordedTensors& tensors, int32_t layer, int32_t head, size_t n_best = 12);

// Of two recordings of the same tokens, for each layer and head: the mean over the tokens that both have rows of, of
// half the sum of |a - b| (total variation: 0 the same, 1 nothing in common); NaN where one of them has no such head.
// invalid_argument: they differ in their numbers of layers or heads, or in their first token.
struct Difference {
    int32_t n_layer = 0, n_head = 0;
    int64_t n_tokens = 0;         // from the first on, those with the same token ids
    std::vector<double> distance; // (n_layer, n_head)
};
Result<Difference> difference(const RecordedTensors& a, const RecordedTensors& b, const Progress& progress = {});

} // namespace attnscope::view
