#include "diagnose/cause_finder.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace attnscope::diagnose {

void CauseFinder::race() {
    const int64_t some = count(tokens_, some_one), partly = count(tokens_, partly_stale);
    const int64_t scores = count(tokens_, is_scores);
    const int64_t good = count(tokens_, is_attention);
    std::set<int32_t> partitions;
    for (const TokenFacts& t : tokens_) {
        if (some_one(t)) partitions.insert(t.layers.partition);
    }
    // The same layers equal in every token: memory shared by plan, not by chance.
    fixed_partition_ = some >= enough_pairs && partitions.size() == 1 && partly == 0;
    const bool flips = scores > 0 && good > 0;
    if ((some == 0 || fixed_partition_) && partly == 0 && !flips) return;
    racing_ = true;
    Finding& f = found(Cause::race, count(tokens_, [&](const TokenFacts& t) { return raced(t, flips); }));
    if (some > 0 && !fixed_partition_) {
        int32_t least = INT32_MAX, most = 0;
        for (const TokenFacts& t : tokens_) {
            if (!some_one(t)) continue;
            least = std::min(least, t.layers.distinct);
            most = std::max(most, t.layers.distinct);
        }
        f.evidence.push_back(
            fmt::format("in {} tokens some layers equal others bit by bit: {} to {} distinct layers of "
                        "{}, in {} different groupings",
                        some, least, most, first_readable().n_layer, partitions.size()));
        if (some < enough_pairs) {
            f.undecided = "so few tokens do not tell a race from layers that share memory by plan: in "
                          "more tokens, a "
                          "race groups the layers differently each time";
        }
    }
    if (partly > 0) {
        f.evidence.push_back(fmt::format("in {} tokens some layers, not all, repeat the previous token's rows ({})",
                                         partly, which(tokens_, partly_stale)));
    }
    if (flips) {
        f.evidence.push_back(fmt::format("{} tokens are scores and {} are probabilities: what was read depended on the "
                                         "moment",
                                         scores, good));
        f.undecided += std::string(f.undecided.empty() ? "" : "; ") +
                       "the tensor that was meant (scores or probabilities) is known to the capturing program alone";
    }
}

bool CauseFinder::raced(const TokenFacts& t, bool flips) {
    return some_one(t) || partly_stale(t) || (flips && t.kind == TokenKind::scores);
}

void CauseFinder::aliasing() {
    const int64_t n = count(tokens_, all_one);
    if (n > 0) {
        Finding& f = found(Cause::aliasing, n);
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), all_one);
        f.evidence.push_back(
            fmt::format("distinct layers: 1 of {} in {} of {} tokens, bit by bit", t.n_layer, n, readable_));
        if (is_attention(t)) {
            f.evidence.push_back(
                fmt::format("the tensor sums to {:.1f}, as {} layers x {} heads should: sums cannot show "
                            "this",
                            t.numbers.sum, t.n_layer, t.n_head));
        }
        if (racing_) f.keep = "nothing: without synchronisation it is not even known which layer it is";
    } else if (fixed_partition_) {
        Finding& f = found(Cause::aliasing, count(tokens_, some_one));
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), some_one);
        f.evidence.push_back(
            fmt::format("{} of {} layers equal others bit by bit ({} distinct), the same ones in every "
                        "token: they share memory",
                        t.layers.equal, t.n_layer, t.layers.distinct));
        f.keep = "the layers that equal no other; of each group of equal layers the last one that was "
                 "computed";
    }
}

void CauseFinder::stale() {
    // A recording's rows are computed of its own queries: what leaves its newest position out has chosen others.
    const bool own_rows = d_.dump.format == "attn";
    const auto behind = [&](const TokenFacts& t) { return !own_rows && lags(t) && !is_stale(t); };
    const int64_t n = count(tokens_, is_stale), n_behind = count(tokens_, behind);
    if (n + n_behind == 0) return;
    Finding& f = found(Cause::stale_frame, n + n_behind);
    if (n > 0) {
        f.evidence.push_back(
            fmt::format("{} tokens hold an earlier token's rows bit by bit ({})", n, which(tokens_, is_stale)));
    }
    if (n_behind > 0) {
        f.evidence.push_back(
            fmt::format("{} tokens give exactly 0 to their newest position in every row, as the token before "
                        "them would ({})",
                        n_behind, which(tokens_, behind)));
    }
}

// The width follows the tokens, but the weights end before it: the frame is that of an earlier token. A
// few rows alone can underflow at the newest position.
bool CauseFinder::lags(const TokenFacts& t) const {
    if (!is_attention(t) || t.layers.trivial || t.columns.padding == 0 || t.columns.padding > 8 ||
        t.n_layer * t.n_head < 8)
        return false;
    if (d_.dump.rectangular || t.columns.wrapped_layers > 0) return false;
    const size_t i = static_cast<size_t>(t.index);
    const auto follows = [&](size_t a, size_t b) { return tokens_[b].n_context == tokens_[a].n_context + 1; };
    return (i > 0 && follows(i - 1, i)) || (i + 1 < tokens_.size() && follows(i, i + 1));
}

} // namespace attnscope::diagnose
