// What a prompt's square maps show: queries of padding, a softmax over the wrong axis, and maps without a causal mask.
#include "diagnose/cause_finder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace attnscope::diagnose {

void ColumnSums::add(const DumpToken& token) {
    if (token.own_column < 0 || over_) return;
    if (token.own_column == 0 && sums_.empty()) {
        n_layer_ = token.n_layer, n_head_ = token.n_head, n_context_ = token.n_context;
        if (token.values.size() <= size_t(1) << 26) sums_.assign(token.values.size(), 0.0);
    }
    over_ = sums_.empty() || token.n_layer != n_layer_ || token.n_head != n_head_ || token.n_context != n_context_;
    for (size_t i = 0; i < token.values.size() && !over_; ++i) {
        if (token.values[i] > -900.0f) sums_[i] += static_cast<double>(token.values[i]); // no mask
    }
    over_ = over_ || token.own_column + 1 == token.n_context;
}

int64_t ColumnSums::ones() const {
    return std::count_if(sums_.begin(), sums_.end(), [](double sum) { return std::abs(sum - 1) <= 0.01; });
}

// Queries before the first sound one, or behind the last: the same ones in every layer and head.
void CauseFinder::padding_queries() {
    if (!d_.dump.prompt) return;
    const auto rows = [](const TokenFacts& t) { return t.n_layer * t.n_head; };
    const auto blank = [&](const TokenFacts& t) {
        if (t.kind == TokenKind::unreadable || t.prompt.own_column < 0) return false;
        return (t.rows.empty == rows(t) && t.numbers.n_not_finite + t.numbers.n_masked > 0) ||
               t.kind == TokenKind::zeros ||
               (t.rows.uniform == rows(t) && t.columns.padding == 0 && t.prompt.own_column + 1 < t.n_context);
    };
    int64_t first = -1, last = -1;
    for (const TokenFacts& t : tokens_) {
        if (t.prompt.own_column < 0 || t.kind == TokenKind::unreadable || blank(t)) continue;
        if (first < 0) first = t.index;
        last = t.index;
    }
    // A short text beside a long one in a batch is mostly padding: what counts is that sound queries lie behind it in one piece.
    if (first < 0 || readable_ - count(tokens_, blank) < 3) return;
    std::vector<TokenFacts*> blanks;
    int64_t not_finite = 0; // of the others
    for (TokenFacts& t : d_.tokens) {
        const bool outside = blank(t) && (t.index < first || t.index > last);
        // zeros to the end are what a file looks like whose writing stopped
        if (outside && !(t.kind == TokenKind::zeros && t.index > last)) {
            blanks.push_back(&t);
        } else {
            not_finite += t.numbers.n_not_finite > 0;
        }
    }
    const auto n = static_cast<int64_t>(blanks.size());
    if (n == 0 || not_finite > n) return; // padding predicts that the other queries hold none
    int64_t n_rows = 0, zeros = 0, uniform = 0;
    for (TokenFacts* const t : blanks) {
        zeros += t->kind == TokenKind::zeros;
        uniform += t->rows.uniform == rows(*t);
        t->kind = TokenKind::padding;
        n_rows += rows(*t);
    }
    const int64_t from = blanks.front()->index, to = blanks.back()->index;
    Finding& f = found(Cause::padding_queries, n);
    f.evidence.push_back(
        fmt::format("all {} rows of {} of {} queries ({} {}) are {}, in every layer and head", n_rows, n, readable_,
                    n == 1 ? "query" : "queries", n == 1 ? std::to_string(from) : fmt::format("{} to {}", from, to),
                    zeros == n     ? "0"
                    : uniform == n ? "one number in every column, as a softmax over a masked row gives it"
                                   : "NaN or masked, as a softmax over a masked row gives it"));
    f.evidence.push_back(fmt::format("{} of the other {} queries hold NaN or infinity", not_finite, readable_ - n));
}

void CauseFinder::other_axis() {
    const auto off = [](const TokenFacts& t) {
        return t.kind != TokenKind::probabilities && t.kind != TokenKind::padding && t.kind != TokenKind::unreadable;
    };
    const int64_t n_off = count(tokens_, off);
    if (n_off == 0) return;
    if (columns_.columns() > 0 && columns_.ones() * 20 >= columns_.columns() * 19) {
        int64_t behind = 0, rows = 0;
        for (const TokenFacts& t : tokens_) {
            behind += t.prompt.behind_rows;
            rows += t.rows.n;
        }
        const bool exchanged = behind * 20 >= rows * 19;
        for (TokenFacts& t : d_.tokens) {
            if (off(t) || exchanged) t.kind = TokenKind::weights;
        }
        Finding& f = found(exchanged ? Cause::transposed : Cause::other_axis, readable_);
        f.evidence.push_back(fmt::format(
            "{} of {} columns sum to 1 over the queries, but rows sum to {:.3g} up to {:.3g}", columns_.ones(),
            columns_.columns(), first_readable().rows.sum_min, first_readable().rows.sum_max));
        if (exchanged) {
            f.evidence.push_back(
                fmt::format("{} of {} rows begin at the diagonal: queries and keys are exchanged", behind, rows));
            f.keep = "everything, read with --axes ...,key,query";
            f.fix = "exchange the last two axes back: x.swapaxes(-1, -2)";
            exchanged_ = true;
        } else {
            f.fix = "take the softmax over the last axis, the keys: dim=-1, not dim=-2";
        }
        return;
    }
    // over the heads: their number stays while the columns grow; heads and columns exchanged, it is the other way round
    const auto over_heads = [](const TokenFacts& t) {
        return t.kind == TokenKind::transposed && t.scores.heads_share > 0.999;
    };
    const int64_t n = count(tokens_, over_heads);
    if (n < 2) return;
    std::set<int32_t> heads;
    std::set<int64_t> widths;
    int64_t empty = 0;
    for (const TokenFacts& t : tokens_) {
        if (!over_heads(t)) continue;
        heads.insert(t.n_head);
        widths.insert(t.n_context);
        empty += t.rows.empty;
    }
    if (heads.size() != 1 || empty > 0 || (widths.size() == 1 && *widths.begin() <= *heads.begin())) return;
    if (widths.size() == 1 && !d_.dump.rectangular) return;
    for (TokenFacts& t : d_.tokens) {
        if (over_heads(t)) t.kind = TokenKind::weights;
    }
    Finding& f = found(Cause::other_axis, n);
    const TokenFacts& t =
        *std::find_if(tokens_.begin(), tokens_.end(), [](const TokenFacts& x) { return x.scores.heads_share > 0.999; });
    f.evidence.push_back(fmt::format(
        "in {} of {} tokens every column sums to 1 over the {} heads of its layer, and rows to {:.3g} up to "
        "{:.3g} (token {}); the number of heads stays while the columns change",
        n, readable_, t.n_head, t.rows.sum_min, t.rows.sum_max, t.number));
    f.fix = "take the softmax over the last axis, the keys: dim=-1, not the heads' axis";
}

void CauseFinder::not_causal() {
    if (!d_.dump.prompt || exchanged_) return;
    int64_t rows = 0, ahead = 0, tokens = 0, whole = 0;
    double weight = 0;
    for (const TokenFacts& t : tokens_) {
        const bool weights = is_attention(t) || t.kind == TokenKind::weights;
        if (!weights || t.prompt.own_column < 0 || t.prompt.own_column + 1 >= t.n_context) continue;
        rows += t.rows.n;
        ahead += t.prompt.ahead_rows;
        weight += t.prompt.ahead_weight;
        tokens += t.prompt.ahead_rows > 0;
        ++whole;
    }
    if (rows == 0 || ahead * 50 < rows) return;
    Finding& f = found(Cause::not_causal, tokens);
    f.evidence.push_back(fmt::format(
        "{} of {} rows, in {} of {} queries, give weight to positions after their own: {:.3g} of 1 in the mean", ahead,
        rows, tokens, whole, weight / double(rows)));
    f.undecided = "whether the model is causal: an encoder (BERT), a prefix that is read both ways (images), or a "
                  "decoder whose mask "
                  "is missing";
}

} // namespace attnscope::diagnose
