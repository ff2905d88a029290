// Which parts of a conversation a policy would drop so that it fits a budget. Pure functions of memory.
//
// All four policies keep what scores highest; they differ in the score and in what is kept whatever it scores:
//   brightness  Halo Weave: PositionScores::brightness(). Nothing is protected beyond the pinned chunks.
//   h2o         Heavy hitters and recent tokens, Zhang et al. 2023 (arXiv 2306.14048): PositionScores::total(); the last
//               `recent` tokens are kept (the paper gives half of the budget to them).
//   snapkv      Li et al. 2024 (arXiv 2404.14469): PositionScores::window_mean(), smoothed over neighbours by a mean of
//               `pool` positions with zeros beyond the ends (their avg_pool1d; 5 in their code); the last `recent` tokens,
//               their observation window, are kept.
//   tova        Oren et al. 2024 (arXiv 2401.06104): PositionScores::last(). Nothing is protected.
// The papers evict per layer, or per head, while the cache is written; here whole tokens leave, so the scores are means
// over layers and heads, and a decision is taken once, for all tokens over the budget.
//
// Chunks (messages, sentences, paragraphs) are dropped whole: a chunk's score is the mean of its tokens' scores, so that
// its length does not decide. Chunks leave in order of rising score, the older of two equal ones first, until the rest
// fits. A chunk with a protected token stays.
#pragma once

#include <attnscope/error.h>
#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace attnscope {

enum class PrunePolicy { brightness, h2o, snapkv, tova };
const char* prune_policy_name(PrunePolicy policy); // "brightness", "h2o", "snapkv", "tova"
Result<PrunePolicy> prune_policy_from_name(std::string_view name);

struct PruneRequest {
    PrunePolicy policy = PrunePolicy::brightness;
    // one a token: what the policy goes by (above); finite. A token that no row has seen yet is given the best score by
    // the caller (brightness: 10,000)
    std::span<const double> scores = {};
    // tokens [begin, end): ascending, together all tokens; empty: each token is a chunk
    std::span<const Range> chunks = {};
    std::span<const int64_t> pinned = {}; // numbers of chunks that stay
    int64_t budget = 0;                   // tokens that may stay
    int64_t recent = 0;                   // h2o, snapkv: the last tokens, which stay
    int32_t pool = 5;                     // snapkv: an odd number; 1: no smoothing
};

struct PruneResult {
    std::vector<double> chunk_scores; // one a chunk
    std::vector<int64_t> dropped;     // numbers of chunks, ascending
    std::vector<int64_t> kept_tokens; // ascending: the new input_ids are the tokens at these places
    Ranges dropped_tokens;
    bool fits = true; // false: what is pinned or protected exceeds the budget by itself
};

// invalid_argument, naming the field: scores that are not finite, chunks that overlap or leave a gap, a chunk number that
// does not exist, a negative budget, an even pool.
Result<PruneResult> prune(const PruneRequest& request);

} // namespace attnscope
