// From facts of tokens to findings.
#pragma once

#include <attnscope/diagnose.h>

#include <span>
#include <string>
#include <vector>

namespace attnscope::diagnose {

// Tokens that could not be read, by what the reader said.
struct UnreadableTokens {
    int64_t count = 0;
    std::vector<std::string> first; // the first few sentences
};

// Of a prompt's square maps: sums over the queries, for each layer, head and column.
class ColumnSums {
public:
    void add(const DumpToken& token);
    int64_t columns() const { return static_cast<int64_t>(sums_.size()); } // that have a sum
    int64_t ones() const;                                                  // whose sum is 1

private:
    std::vector<double> sums_;
    int32_t n_layer_ = 0, n_head_ = 0;
    int64_t n_context_ = 0;
    bool over_ = false; // a second map, or one too large to keep sums of
};

// Fills findings, keep and conclusion from capture, tokens and pattern.
void name_causes(Diagnosis& diagnosis, const UnreadableTokens& unreadable, const ColumnSums& columns);

// How good and bad tokens follow one another. `bad[i]` belongs to tokens[i].
Pattern find_pattern(std::span<const TokenFacts> tokens, const std::vector<bool>& bad);

// Columns move on with the tokens: of consecutive pairs, the share in which `column` grows by exactly one (or
// returns to a low one, for rings). Pairs where either is -1 do not count; `pairs` gets how many did.
double share_advancing(std::span<const TokenFacts> tokens, int64_t TokenFacts::Columns::*column, int64_t& pairs);

// The last sentence: what happened, in plain words.
std::string conclude(const Diagnosis& diagnosis);

// What to keep and what to change for a cause, without numbers.
const char* cause_keep(Cause cause);
const char* cause_fix(Cause cause);

} // namespace attnscope::diagnose
