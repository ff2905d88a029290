// Facts of one token's tensor, and what it shares with the token before.
#pragma once

#include <attnscope/diagnose.h>

#include "diagnose/row_statistics.h"

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace attnscope::diagnose {

// Rows are compared through hashes. A token of the next width still has to be compared with the one before
// it, so the hash of a row is made of two: of a head that ends at a multiple of 64 columns, which
// neighbouring tokens share, and of the rest.
constexpr int64_t hash_grid = 64;

class TokenFactsMaker {
public:
    TokenFacts make(const DumpToken& token);

private:
    struct LayerFacts {
        uint64_t hash = 0;
        bool trivial = true;
        bool zero = true;
    };

    void look_at_rows(const DumpToken& token, TokenFacts& facts);
    void look_at_layers(const DumpToken& token, TokenFacts& facts);
    void look_at_kind(const DumpToken& token, TokenFacts& facts) const;
    void look_at_support(const DumpToken& token, TokenFacts& facts) const;
    void look_at_scores(const DumpToken& token, TokenFacts& facts) const;
    void look_at_profile(const DumpToken& token, TokenFacts& facts);
    void look_at_changes(const DumpToken& token, TokenFacts& facts) const;
    void look_at_dropout(const DumpToken& token, TokenFacts& facts) const;
    void look_at_columns(const DumpToken& token, TokenFacts& facts);
    uint64_t layer_hash_at(const DumpToken& token, int32_t layer, int64_t width) const;

    std::vector<RowStatistics> rows_;   // (n_layer, n_head)
    std::vector<uint64_t> row_hashes_;  // (n_layer, n_head)
    std::vector<uint64_t> head_hashes_; // of the first multiple of hash_grid columns
    std::vector<LayerFacts> layers_;
    // of the token before
    std::vector<uint64_t> previous_layers_;
    int64_t previous_context_ = 0;
    int32_t previous_heads_ = 0;
    int64_t previous_index_ = -1;
    std::vector<float> profile_, previous_profile_;
    std::vector<uint8_t> used_, previous_used_; // (n_layer, n_context): columns that some row uses
    int64_t previous_used_context_ = 0, previous_newest_ = 0;
    int32_t previous_used_layers_ = 0;
    std::unordered_map<uint64_t, int64_t> seen_; // hash of a whole tensor -> index of the first token that had it
};

// What a row is, from its statistics alone.
enum class RowKind { probability, sub_probability, over, zero, score, wild, not_finite };
RowKind row_kind(const RowStatistics& row, int64_t n_context);

// A row whose sum is within this of 1 is a probability: float16 and bfloat16 arithmetic lose up to 0.4%.
constexpr double sum_tolerance = 0.01;

// Rows that use fewer columns than this do not tell weights from scores by their sum.
constexpr int64_t narrow_columns = 8;

} // namespace attnscope::diagnose
