#include "diagnose/cause_finder.h"
#include "diagnose/token_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace attnscope::diagnose {

namespace {

// Scores that still lack the division by sqrt(head size) lie 6 to 16 times as far apart: a softmax of them
// would give nearly everything to one position, in the median row.
constexpr double early_peak = 0.7;
constexpr double early_spread = 5.5;

} // namespace

// The first tokens of a text see too few columns to tell scores from weights: they are what the others are.
void CauseFinder::narrow_tokens() {
    const auto narrow = [](const TokenFacts& t) { return t.rows.widest < narrow_columns; };
    if (count(tokens_, is_scores) == 0 ||
        count(tokens_, [&](const TokenFacts& t) { return is_attention(t) && !narrow(t); }) > 0)
        return;
    for (TokenFacts& t : d_.tokens) {
        const bool ones = t.rows.sum_min > 1 - sum_tolerance && t.rows.sum_max < 1 + sum_tolerance;
        if (narrow(t) && t.rows.n > 0 && !ones && (is_attention(t) || t.kind == TokenKind::transposed))
            t.kind = TokenKind::scores;
    }
}

void CauseFinder::mixture() {
    const auto test = [](const TokenFacts& t) {
        return t.kind == TokenKind::mixed && (t.numbers.min < 0 || t.numbers.n_masked > 0);
    };
    const int64_t n = count(tokens_, test);
    if (n == 0) return;
    Finding& f = found(Cause::mixture, n);
    const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), test);
    f.evidence.push_back(
        fmt::format("in {} tokens some rows sum to 1 and others are scores; in token {} {} of {} rows are "
                    "scores (from {:.4g} to {:.4g})",
                    n, t.number, t.rows.score, t.n_layer * t.n_head, double(t.numbers.min), double(t.numbers.max)));
}

void CauseFinder::scores() {
    const auto& test = is_scores;
    const int64_t n = count(tokens_, test);
    if (n == 0 || has(Cause::race)) return; // then they are part of the race
    std::vector<double> peaks, spreads;
    int64_t masked = 0, unmasked = 0;
    double min = 0, max = 0;
    float mask_low = 0, mask_high = 0;
    for (const TokenFacts& t : tokens_) {
        if (!test(t)) continue;
        if (t.numbers.mask_low < 0) {
            mask_low = std::min(mask_low, t.numbers.mask_low);
            mask_high = mask_high == 0 ? t.numbers.mask_high : std::max(mask_high, t.numbers.mask_high);
        }
        if (t.scores.spread > 0) {
            peaks.push_back(t.scores.peakedness);
            spreads.push_back(t.scores.spread);
        }
        masked += t.numbers.n_masked > 0;
        const bool beyond = t.stated_context >= 0 && t.stated_context < t.n_context;
        unmasked += t.numbers.n_masked == 0 && (t.columns.padding > 0 || beyond);
        min = std::min(min, double(t.numbers.min));
        max = std::max(max, double(t.numbers.max));
    }
    const auto middle = [](std::vector<double>& v) {
        if (v.empty()) return 0.0;
        std::nth_element(v.begin(), v.begin() + int64_t(v.size() / 2), v.end());
        return v[v.size() / 2];
    };
    const double peak = middle(peaks), spread = middle(spreads);
    // stacked tokens need a mask for the columns after each token
    const bool stacked_unmasked = d_.dump.rectangular && tokens_.size() > 1 && masked == 0;
    const bool before_scale = peak > early_peak && spread > early_spread;
    const bool before_mask = unmasked > 0 || stacked_unmasked;
    Finding& f = found(before_scale || before_mask ? Cause::early_scores : Cause::raw_scores, n);
    f.evidence.push_back(
        fmt::format("{} tokens hold numbers from {:.4g} to {:.4g} whose rows do not sum to 1", n, min, max));
    if (before_scale) {
        f.evidence.push_back(
            fmt::format("the entries of a row lie {:.1f} apart (standard deviation), so that a softmax "
                        "would give {:.0f}% to one position: a division by sqrt(head size) is missing",
                        spread, 100 * peak));
    }
    if (before_mask) {
        f.evidence.push_back(
            unmasked > 0
                ? fmt::format("columns after the newest position, which a mask sets to -inf, hold 0 or other ordinary "
                              "numbers in {} tokens",
                              unmasked)
                : "the tokens share one width, and no column holds what a mask leaves");
    } else if (masked > 0) {
        f.evidence.push_back(mask_low < 0
                                 ? fmt::format("masked columns are there in {} of {} tokens, as {:.6g}{}", masked, n,
                                               double(mask_low),
                                               mask_high > mask_low ? fmt::format(" to {:.6g}", double(mask_high)) : "")
                                 : fmt::format("masked columns are there in {} of {} tokens, as -inf", masked, n));
    }
    if (!before_scale) {
        f.evidence.push_back(
            fmt::format("the entries of a row lie {:.1f} apart (standard deviation), as scaled scores do", spread));
    }
    f.undecided = "whether the scale (and a soft cap) was applied is judged from the spread; one row of "
                  "the model's own "
                  "attention weights would decide it";
}

void CauseFinder::overflow() {
    const int64_t n = count(tokens_, overflowed);
    if (n == 0) return;
    Finding& f = found(Cause::half_overflow, n);
    int64_t bad = 0, limit = 0;
    for (const TokenFacts& t : tokens_) {
        if (!overflowed(t)) continue;
        bad += t.numbers.n_not_finite;
        limit += t.numbers.n_half_limit;
    }
    f.evidence.push_back(
        fmt::format("{} NaN or infinite numbers and {} of exactly 65504 (the largest in half precision) in {} "
                    "tokens ({})",
                    bad, limit, n, which(tokens_, overflowed)));
    if (limit == 0) {
        f.undecided = "NaN alone also comes from memory that was never written; a run with scores in "
                      "float32 would decide it";
    }
}

void CauseFinder::corrupt() {
    const auto test = [this](const TokenFacts& t) { return is_wild(t) || torn(t); };
    const int64_t n = count(tokens_, test);
    if (n == 0 && unreadable_.count == 0) return;
    Finding& f = found(Cause::corrupt, n + unreadable_.count);
    for (const std::string& sentence : unreadable_.first) f.evidence.push_back(sentence);
    if (unreadable_.count > int64_t(unreadable_.first.size())) {
        f.evidence.push_back(fmt::format("{} tokens could not be read in all", unreadable_.count));
    }
    if (count(tokens_, is_wild) > 0) {
        f.evidence.push_back(
            fmt::format("rows with numbers beyond anything that attention computes, in {}", which(tokens_, is_wild)));
    }
    const auto torn_test = [this](const TokenFacts& t) { return torn(t); };
    if (count(tokens_, torn_test) > 0) {
        f.evidence.push_back(fmt::format("the tensor ends in zeros, as a file does whose writing stopped, in {}",
                                         which(tokens_, torn_test)));
    }
}

// Zeros from somewhere to the end of the tensor. Where they are there in every token alike, the model has
// layers without attention, or with fewer heads than others, at its end.
bool CauseFinder::torn(const TokenFacts& t) const {
    if (t.kind == TokenKind::unreadable || t.kind == TokenKind::padding || t.rows.zero_tail == 0) return false;
    if (has(Cause::dropout)) return false; // rows of zeros by chance
    // A map lies head by head in its file: where writing stopped, it stopped before the last query.
    if (d_.dump.prompt && tokens_.back().rows.zero_tail < t.rows.zero_tail) return false;
    if (t.kind == TokenKind::zeros) return true;
    if (readable_ == 1) return t.rows.zero_tail_in_layer && d_.dump.format != "attn";
    return std::any_of(tokens_.begin(), tokens_.end(), [&](const TokenFacts& other) {
        return other.kind != TokenKind::unreadable && other.rows.zero_tail < t.rows.zero_tail;
    });
}

void CauseFinder::sinks() {
    const auto test = [this](const TokenFacts& t) { return t.kind == TokenKind::sub_probabilities && !torn(t); };
    const int64_t n = count(tokens_, test);
    if (n == 0 || !d_.good()) return;
    Finding& f = found(Cause::learned_sinks, n);
    const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), test);
    f.evidence.push_back(
        fmt::format("in {} of {} tokens rows sum to less than 1 and none to more; token {}: {} of {} rows, "
                    "the least {:.3f}",
                    n, readable_, t.number, t.rows.sub, t.n_layer * t.n_head, t.numbers.row_sum_min));
    if (d_.dump.model.learned_sinks)
        f.evidence.push_back("the recording holds the model's sink logits");
    else
        f.undecided = "columns that were cut off would look alike; whether the model has learned sinks "
                      "(gpt-oss has) decides it";
}

// Numbers that no cause predicts; and sums below 1 that come and go between tokens, which is no property of a model.
void CauseFinder::unknown() {
    const bool scores = count(tokens_, is_scores) > 0;
    const auto unexplained = [&](const TokenFacts& t) {
        if (scores && t.rows.widest < narrow_columns) return false; // scores of few columns are positive by chance
        return (t.kind == TokenKind::scores || t.kind == TokenKind::mixed) && t.numbers.min >= 0 &&
               t.numbers.n_masked == 0;
    };
    if (const int64_t n = count(tokens_, unexplained); n > 0) {
        double low = std::numeric_limits<double>::infinity(), high = 0;
        float max = 0;
        for (const TokenFacts& t : tokens_) {
            if (!unexplained(t)) continue;
            low = std::min(low, t.rows.sum_min);
            high = std::max(high, t.rows.sum_max);
            max = std::max(max, t.numbers.max);
        }
        Finding& f = found(Cause::unknown, n);
        f.evidence.push_back(fmt::format(
            "{} tokens hold numbers from 0 to {:.4g}, none negative and none masked, whose rows sum to {:.4g} "
            "up to {:.4g}",
            n, double(max), low, high));
        f.evidence.push_back(
            "scores would be negative in part; dropout, another scale, a step, and sums over another axis do not "
            "predict these numbers");
        f.undecided = "what was done to them: one row of the model's own weights would decide it";
        return;
    }
    const auto sub = [this](const TokenFacts& t) { return t.kind == TokenKind::sub_probabilities && !torn(t); };
    const auto whole = [](const TokenFacts& t) { return t.kind == TokenKind::probabilities; };
    const int64_t n_sub = count(tokens_, sub), n_whole = count(tokens_, whole);
    if (!d_.good() || d_.dump.model.learned_sinks || n_sub == 0) return;
    int64_t changes = 0;
    for (size_t i = 1; i < tokens_.size(); ++i) changes += sub(tokens_[i]) != sub(tokens_[i - 1]);
    const int64_t shares = most_sub_rows() * 4;
    const TokenFacts& t = first_readable();
    const bool few_rows = shares < int64_t(t.n_layer) * t.n_head;
    if (n_whole == 0 || changes <= 2 || !few_rows) return;
    Finding& f = found(Cause::unknown, n_sub);
    f.evidence.push_back(
        fmt::format("a few rows sum to less than 1 in {} tokens and to 1 in {} others, changing {} times", n_sub,
                    n_whole, changes));
    f.undecided = "weak learned sinks, or columns that were cut off: the model's sink logits or its "
                  "window would decide it";
}

int64_t CauseFinder::most_sub_rows() const {
    int64_t most = 0;
    for (const TokenFacts& t : tokens_) most = std::max<int64_t>(most, t.rows.sub);
    return most;
}

} // namespace attnscope::diagnose
