// The causes, one member each: what speaks for it in the facts of all tokens. Defined over several files by
// where the signal lies: between tokens and layers, in the numbers, along the axes.
#pragma once

#include "diagnose/causes.h"

#include <functional>

namespace attnscope::diagnose {

using Tokens = std::span<const TokenFacts>;
using TokenTest = std::function<bool(const TokenFacts&)>;

bool is_attention(const TokenFacts& t);
bool all_one(const TokenFacts& t);      // every layer holds the same rows
bool some_one(const TokenFacts& t);     // some layers do, not all
bool is_stale(const TokenFacts& t);     // an earlier token's tensor
bool partly_stale(const TokenFacts& t); // some layers of the previous token
bool is_wild(const TokenFacts& t);      // numbers that attention never computes
bool overflowed(const TokenFacts& t);   // NaN, infinity or 65504
bool is_scores(const TokenFacts& t);    // with what scores have and weights have not: negative numbers, or a mask
bool only_weights(const TokenFacts& t); // nothing negative, masked or not finite

int64_t count(Tokens tokens, const TokenTest& test);
std::string which(Tokens tokens, const TokenTest& test); // "tokens 3, 4, 9 and 12 more"

constexpr int64_t enough_pairs = 3; // consecutive tokens that have to agree before a movement means something

class CauseFinder {
public:
    CauseFinder(Diagnosis& diagnosis, const UnreadableTokens& unreadable, const ColumnSums& columns);
    // What was done to weights after the softmax: tokens that this explains get the kind `weights` or `padding`.
    void explain();
    void run(); // the rest; once, after explain()

private:
    Finding& found(Cause cause, int64_t n_tokens);
    bool has(Cause cause) const;

    void narrow_tokens();
    void race();
    static bool raced(const TokenFacts& t, bool flips);
    void aliasing();
    void stale();
    bool lags(const TokenFacts& t) const;

    void mixture();
    void scores();
    void overflow();
    void corrupt();
    bool torn(const TokenFacts& t) const;
    void sinks();
    void unknown();
    int64_t most_sub_rows() const;

    void transposed();
    void kv_heads();
    void cells();
    bool edge_stays_while_context_grows() const;
    void padding();

    void padding_queries();
    void other_axis();
    void dropout();
    void rescaled();
    void quantised();
    void sink_column();
    void evicted();
    void not_causal();
    bool reuses_columns() const;

    void clean();
    void note_later_columns();
    void note_missing_rows();
    void decide_what_to_keep();
    Keep keep_of(const TokenFacts& t) const;
    const TokenFacts& first_readable() const;
    const TokenFacts& last_readable() const;

    Diagnosis& d_;
    Tokens tokens_; // of d_
    const UnreadableTokens& unreadable_;
    const ColumnSums& columns_;
    int64_t readable_ = 0;
    bool racing_ = false;
    bool fixed_partition_ = false;
    bool exchanged_ = false; // queries and keys
};

} // namespace attnscope::diagnose
