#include "verify/causes.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

namespace attnscope {

namespace {

// Scores that still lack the division by sqrt(head size) lie 6 to 16 times as far apart: a softmax of them
// would give nearly everything to one position, in the median row.
constexpr double early_peak = 0.7;
constexpr double early_spread = 5.5;
constexpr int64_t enough_pairs = 3;

using Tokens = std::span<const TokenFacts>;
using Test = std::function<bool(const TokenFacts&)>;

bool is_attention(const TokenFacts& t) {
    return t.kind == TokenKind::probabilities || t.kind == TokenKind::sub_probabilities;
}

int64_t count(Tokens tokens, const Test& test) {
    return std::count_if(tokens.begin(), tokens.end(), test);
}

// "tokens 3, 4, 9 and 12 more"
std::string which(Tokens tokens, const Test& test) {
    std::string text;
    int64_t told = 0, more = 0;
    for (const TokenFacts& t : tokens) {
        if (!test(t)) continue;
        if (told < 5)
            text += (told++ ? ", " : "") + std::to_string(t.number);
        else
            ++more;
    }
    return (told > 1 ? "tokens " : "token ") + text + (more ? fmt::format(" and {} more", more) : "");
}

bool all_one(const TokenFacts& t) {
    return t.n_layer > 1 && !t.trivial && t.distinct_layers == 1;
}
bool some_one(const TokenFacts& t) {
    return t.equal_layers > 0 && t.distinct_layers > 1;
}
bool is_stale(const TokenFacts& t) {
    return t.repeats >= 0;
}
bool partly_stale(const TokenFacts& t) {
    return t.stale_layers > 0 && t.repeats < 0 && !all_one(t);
}
bool is_wild(const TokenFacts& t) {
    return t.wild_rows > 0;
}
bool overflowed(const TokenFacts& t) {
    return !is_wild(t) && (t.n_not_finite > 0 || t.n_half_limit > 0);
}

class Causes {
public:
    Causes(Diagnosis& diagnosis, const UnreadableTokens& unreadable)
        : d_(diagnosis), tokens_(diagnosis.tokens), unreadable_(unreadable) {
        readable_ = count(tokens_, [](const TokenFacts& t) { return t.kind != TokenKind::unreadable; });
    }

    void run() {
        race();
        aliasing();
        stale();
        mixture();
        scores();
        transposed();
        kv_heads();
        cells();
        padding();
        overflow();
        corrupt();
        unknown();
        sinks();
        if (d_.findings.empty()) clean();
        decide_what_to_keep();
    }

private:
    Finding& found(Cause cause, int64_t n_tokens) {
        Finding finding;
        finding.cause = cause;
        finding.n_tokens = n_tokens;
        finding.keep = cause_keep(cause);
        finding.fix = cause_fix(cause);
        d_.findings.push_back(std::move(finding));
        return d_.findings.back();
    }
    bool has(Cause cause) const {
        return std::any_of(d_.findings.begin(), d_.findings.end(),
                           [&](const Finding& f) { return f.cause == cause; });
    }

    void race() {
        const int64_t some = count(tokens_, some_one), partly = count(tokens_, partly_stale);
        const int64_t scores =
            count(tokens_, [](const TokenFacts& t) { return t.kind == TokenKind::scores; });
        const int64_t good = count(tokens_, is_attention);
        std::set<int32_t> partitions;
        for (const TokenFacts& t : tokens_) {
            if (some_one(t)) partitions.insert(t.layer_partition);
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
                least = std::min(least, t.distinct_layers);
                most = std::max(most, t.distinct_layers);
            }
            f.evidence.push_back(
                fmt::format("in {} tokens some layers equal others bit by bit: {} to {} distinct layers of "
                            "{}, in {} different groupings",
                            some, least, most, tokens_[0].n_layer, partitions.size()));
            if (some < enough_pairs) {
                f.undecided = "so few tokens do not tell a race from layers that share memory by plan: in "
                              "more tokens, a "
                              "race groups the layers differently each time";
            }
        }
        if (partly > 0) {
            f.evidence.push_back(
                fmt::format("in {} tokens some layers, not all, repeat the previous token's rows ({})",
                            partly, which(tokens_, partly_stale)));
        }
        if (flips) {
            f.evidence.push_back(
                fmt::format("{} tokens are scores and {} are probabilities: what was read depended on the "
                            "moment",
                            scores, good));
            f.undecided +=
                std::string(f.undecided.empty() ? "" : "; ") +
                "the tensor that was meant (scores or probabilities) is known to the capturing program alone";
        }
    }
    static bool raced(const TokenFacts& t, bool flips) {
        return some_one(t) || partly_stale(t) || (flips && t.kind == TokenKind::scores);
    }

    void aliasing() {
        const int64_t n = count(tokens_, all_one);
        if (n > 0) {
            Finding& f = found(Cause::aliasing, n);
            const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), all_one);
            f.evidence.push_back(fmt::format("distinct layers: 1 of {} in {} of {} tokens, bit by bit",
                                             t.n_layer, n, readable_));
            if (is_attention(t)) {
                f.evidence.push_back(
                    fmt::format("the tensor sums to {:.1f}, as {} layers x {} heads should: sums cannot show "
                                "this",
                                t.sum, t.n_layer, t.n_head));
            }
            if (racing_) f.keep = "nothing: without synchronisation it is not even known which layer it is";
        } else if (fixed_partition_) {
            Finding& f = found(Cause::aliasing, count(tokens_, some_one));
            const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), some_one);
            f.evidence.push_back(
                fmt::format("{} of {} layers equal others bit by bit ({} distinct), the same ones in every "
                            "token: they share memory",
                            t.equal_layers, t.n_layer, t.distinct_layers));
            f.keep = "the layers that equal no other; of each group of equal layers the last one that was "
                     "computed";
        }
    }

    void stale() {
        const auto behind = [this](const TokenFacts& t) { return lags(t) && !is_stale(t); };
        const int64_t n = count(tokens_, is_stale), n_behind = count(tokens_, behind);
        if (n + n_behind == 0) return;
        Finding& f = found(Cause::stale_frame, n + n_behind);
        if (n > 0) {
            f.evidence.push_back(fmt::format("{} tokens hold an earlier token's rows bit by bit ({})", n,
                                             which(tokens_, is_stale)));
        }
        if (n_behind > 0) {
            f.evidence.push_back(fmt::format(
                "{} tokens give exactly 0 to their newest position in every row, as the token before "
                "them would ({})",
                n_behind, which(tokens_, behind)));
        }
    }
    // The width follows the tokens, but the weights end before it: the frame is that of an earlier token. A
    // few rows alone can underflow at the newest position.
    bool lags(const TokenFacts& t) const {
        if (!is_attention(t) || t.trivial || t.padding == 0 || t.padding > 8 || t.n_layer * t.n_head < 8)
            return false;
        if (d_.capture.rectangular || t.wrapped_layers > 0) return false;
        const size_t i = static_cast<size_t>(t.index);
        const auto follows = [&](size_t a, size_t b) {
            return tokens_[b].n_context == tokens_[a].n_context + 1;
        };
        return (i > 0 && follows(i - 1, i)) || (i + 1 < tokens_.size() && follows(i, i + 1));
    }

    void mixture() {
        const auto test = [](const TokenFacts& t) { return t.kind == TokenKind::mixed; };
        const int64_t n = count(tokens_, test);
        if (n == 0) return;
        Finding& f = found(Cause::mixture, n);
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), test);
        f.evidence.push_back(fmt::format(
            "in {} tokens some rows sum to 1 and others are scores; in token {} {} of {} rows are "
            "scores (from {:.4g} to {:.4g})",
            n, t.number, t.score_rows, t.n_layer * t.n_head, double(t.min), double(t.max)));
    }

    void scores() {
        const auto test = [](const TokenFacts& t) { return t.kind == TokenKind::scores; };
        const int64_t n = count(tokens_, test);
        if (n == 0 || has(Cause::race)) return; // then they are part of the race
        std::vector<double> peaks, spreads;
        int64_t masked = 0, unmasked = 0;
        double min = 0, max = 0;
        for (const TokenFacts& t : tokens_) {
            if (!test(t)) continue;
            if (t.spread > 0) {
                peaks.push_back(t.peakedness);
                spreads.push_back(t.spread);
            }
            masked += t.n_masked > 0;
            const bool beyond = t.stated_context >= 0 && t.stated_context < t.n_context;
            unmasked += t.n_masked == 0 && (t.padding > 0 || beyond);
            min = std::min(min, double(t.min));
            max = std::max(max, double(t.max));
        }
        const auto middle = [](std::vector<double>& v) {
            if (v.empty()) return 0.0;
            std::nth_element(v.begin(), v.begin() + int64_t(v.size() / 2), v.end());
            return v[v.size() / 2];
        };
        const double peak = middle(peaks), spread = middle(spreads);
        // stacked tokens need a mask for the columns after each token
        const bool stacked_unmasked = d_.capture.rectangular && tokens_.size() > 1 && masked == 0;
        const bool before_scale = peak > early_peak && spread > early_spread;
        const bool before_mask = unmasked > 0 || stacked_unmasked;
        Finding& f = found(before_scale || before_mask ? Cause::early_scores : Cause::raw_scores, n);
        f.evidence.push_back(fmt::format(
            "{} tokens hold numbers from {:.4g} to {:.4g} whose rows do not sum to 1", n, min, max));
        if (before_scale) {
            f.evidence.push_back(
                fmt::format("the entries of a row lie {:.1f} apart (standard deviation), so that a softmax "
                            "would give {:.0f}% to one position: a division by sqrt(head size) is missing",
                            spread, 100 * peak));
        }
        if (before_mask) {
            f.evidence.push_back("columns that the mask should have removed hold ordinary numbers");
        } else if (masked > 0) {
            f.evidence.push_back(fmt::format(
                "masked columns are there as -inf or a very large negative number in {} tokens", masked));
        }
        if (!before_scale) {
            f.evidence.push_back(fmt::format(
                "the entries of a row lie {:.1f} apart (standard deviation), as scaled scores do", spread));
        }
        f.undecided = "whether the scale (and a soft cap) was applied is judged from the spread; one row of "
                      "the model's own "
                      "attention weights would decide it";
    }

    void transposed() {
        const auto test = [](const TokenFacts& t) { return t.kind == TokenKind::transposed; };
        const int64_t n = count(tokens_, test);
        if (n == 0) return;
        Finding& f = found(Cause::transposed, n);
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), test);
        f.evidence.push_back(
            fmt::format("rows sum to {:.3g} up to {:.3g}, but over the other axis every sum is 1 (token {})",
                        t.row_sum_min, t.row_sum_max, t.number));
    }

    void kv_heads() {
        const StatedModel& model = d_.capture.model;
        const auto grouped = [](const TokenFacts& t) { return t.head_group > 1; };
        const auto informative = [](const TokenFacts& t) {
            return t.kind != TokenKind::unreadable && !t.trivial;
        };
        const int64_t n = count(tokens_, grouped);
        if (n > 0 && n == count(tokens_, informative)) {
            const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), grouped);
            Finding& f = found(Cause::kv_heads, n);
            f.evidence.push_back(
                fmt::format("the {} heads come in runs of {} that are equal bit by bit, in every layer: {} "
                            "different rows, as many as KV heads",
                            t.n_head, t.head_group, t.n_head / t.head_group));
            if (model.n_head_kv == 0) {
                f.undecided = "the model's number of KV heads would confirm it";
            }
            return;
        }
        const TokenFacts& t = first_readable();
        if (model.n_head_kv > 0 && model.n_head > model.n_head_kv && t.n_head == model.n_head_kv &&
            t.kind != TokenKind::transposed) {
            Finding& f = found(Cause::kv_heads, readable_);
            f.evidence.push_back(
                fmt::format("{} heads were captured; the capture states {} query heads and {} KV heads",
                            t.n_head, model.n_head, model.n_head_kv));
            f.undecided = "whether the rows are means over each group of query heads or one of them";
        }
    }

    void cells() {
        const auto holed = [](const TokenFacts& t) { return t.wrapped_layers > 0; };
        const auto beyond = [](const TokenFacts& t) {
            return is_attention(t) && t.stated_context >= 0 && t.n_context - t.padding > t.stated_context;
        };
        const auto behind = [](const TokenFacts& t) {
            return t.newest_column >= 0 && t.newest_column < t.n_context - 1 - t.padding;
        };
        int64_t hole_pairs = 0, newest_pairs = 0;
        const double hole_share = share_advancing(tokens_, &TokenFacts::wrap_edge, hole_pairs);
        const double newest_share = share_advancing(tokens_, &TokenFacts::newest_column, newest_pairs);
        const int64_t n_holed = count(tokens_, holed), n_beyond = count(tokens_, beyond),
                      n_behind = count(tokens_, behind);
        const bool hole_moves = hole_pairs >= enough_pairs && hole_share >= 0.6;
        const bool hole_stays =
            n_holed >= 4 && n_holed * 10 >= readable_ * 9 && edge_stays_while_context_grows();
        const bool newest_moves =
            newest_pairs > enough_pairs && newest_share >= 0.8 && n_behind * 2 > newest_pairs;
        if (!hole_moves && !hole_stays && !newest_moves && n_beyond == 0) return;
        Finding& f =
            found(Cause::cells_for_positions,
                  std::max({hole_moves || hole_stays ? n_holed : 0, newest_moves ? n_behind : 0, n_beyond}));
        if (hole_moves) {
            const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), holed);
            f.evidence.push_back(fmt::format(
                "in {} tokens whole layers leave out columns before used ones (token {}: {} layers, "
                "after column {}), and that place moves on by one with each token: the newest "
                "token lies there, older ones behind it",
                n_holed, t.number, t.wrapped_layers, t.wrap_edge));
        }
        if (hole_stays) {
            f.evidence.push_back(fmt::format(
                "in {} tokens the same layers never look at the newest positions: their columns end "
                "where a smaller, circular cache ends",
                n_holed));
        }
        if (newest_moves) {
            f.evidence.push_back(
                fmt::format("from token to token the column that gains most moves on by one ({:.0f}% of {} "
                            "steps) in the middle of the row: the newest key is written there",
                            100 * newest_share, newest_pairs));
        }
        if (n_beyond > 0) {
            f.evidence.push_back(
                fmt::format("{} tokens give weight to columns beyond their stated context length ({})",
                            n_beyond, which(tokens_, beyond)));
        }
        f.undecided = "which position each column holds: the positions of the cells at each token would tell";
    }
    bool edge_stays_while_context_grows() const {
        int64_t pairs = 0, same = 0, grows = 0;
        for (size_t i = 1; i < tokens_.size(); ++i) {
            if (tokens_[i].wrap_edge < 0 || tokens_[i - 1].wrap_edge < 0) continue;
            ++pairs;
            same += tokens_[i].wrap_edge == tokens_[i - 1].wrap_edge &&
                    tokens_[i].wrapped_layers == tokens_[i - 1].wrapped_layers;
            grows +=
                tokens_[i].n_context - tokens_[i].padding > tokens_[i - 1].n_context - tokens_[i - 1].padding;
        }
        return pairs >= enough_pairs && same * 10 >= pairs * 9 && grows * 10 >= pairs * 9;
    }

    void padding() {
        const auto padded = [this](const TokenFacts& t) {
            return is_attention(t) && t.padding > 0 && !lags(t) && !is_stale(t);
        };
        const int64_t n = count(tokens_, padded);
        if (n == 0 || has(Cause::cells_for_positions)) return;
        int64_t stated = 0, pairs = 0, filling = 0;
        for (size_t i = 0; i < tokens_.size(); ++i) {
            const TokenFacts& t = tokens_[i];
            if (!padded(t)) continue;
            stated += t.stated_context >= 0 && t.stated_context <= t.n_context - t.padding;
            if (i == 0 || !padded(tokens_[i - 1])) continue;
            ++pairs;
            const int64_t used = t.n_context - t.padding,
                          before = tokens_[i - 1].n_context - tokens_[i - 1].padding;
            filling += used == before + 1;
        }
        const TokenFacts& last = last_readable();
        bool yes = stated > 0;
        if (d_.capture.rectangular) {
            // stacked tokens share the width of the longest, so the last one has to reach the end
            yes = yes || (padded(last) && last.padding >= 2);
        } else {
            const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), padded);
            yes = yes || (pairs >= enough_pairs && filling * 10 >= pairs * 9) ||
                  (t.n_context % 32 == 0 && t.padding >= 2 && !t.trivial && n == readable_);
        }
        if (!yes) return;
        Finding& f = found(Cause::padding, n);
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), padded);
        f.evidence.push_back(fmt::format(
            "the last columns are exactly 0 in every row of {} tokens; token {}: {} of {} columns{}", n,
            t.number, t.padding, t.n_context,
            t.n_context % 256 == 0 ? ", and the width is a multiple of 256" : ""));
        if (pairs > 0) {
            f.evidence.push_back(
                fmt::format("the used part grows by one column a token in {} of {} steps", filling, pairs));
        }
        if (stated > 0)
            f.evidence.push_back(fmt::format("{} tokens state a shorter context length themselves", stated));
    }

    void overflow() {
        const int64_t n = count(tokens_, overflowed);
        if (n == 0) return;
        Finding& f = found(Cause::half_overflow, n);
        int64_t bad = 0, limit = 0;
        for (const TokenFacts& t : tokens_) {
            if (!overflowed(t)) continue;
            bad += t.n_not_finite;
            limit += t.n_half_limit;
        }
        f.evidence.push_back(fmt::format(
            "{} NaN or infinite numbers and {} of exactly 65504 (the largest in half precision) in {} "
            "tokens ({})",
            bad, limit, n, which(tokens_, overflowed)));
        if (limit == 0) {
            f.undecided = "NaN alone also comes from memory that was never written; a run with scores in "
                          "float32 would decide it";
        }
    }

    void corrupt() {
        const auto test = [this](const TokenFacts& t) { return is_wild(t) || torn(t); };
        const int64_t n = count(tokens_, test);
        if (n == 0 && unreadable_.count == 0) return;
        Finding& f = found(Cause::corrupt, n + unreadable_.count);
        for (const std::string& sentence : unreadable_.first)
            f.evidence.push_back(sentence);
        if (unreadable_.count > int64_t(unreadable_.first.size())) {
            f.evidence.push_back(fmt::format("{} tokens could not be read in all", unreadable_.count));
        }
        if (count(tokens_, is_wild) > 0) {
            f.evidence.push_back(fmt::format(
                "rows with numbers beyond anything that attention computes, in {}", which(tokens_, is_wild)));
        }
        const auto torn_test = [this](const TokenFacts& t) { return torn(t); };
        if (count(tokens_, torn_test) > 0) {
            f.evidence.push_back(
                fmt::format("the tensor ends in zeros, as a file does whose writing stopped, in {}",
                            which(tokens_, torn_test)));
        }
    }
    // Zeros from somewhere to the end of the tensor. Whole layers of zeros in every token are layers without
    // attention.
    bool torn(const TokenFacts& t) const {
        if (t.kind == TokenKind::unreadable || t.zero_tail_rows == 0) return false;
        if (t.kind == TokenKind::zeros || t.zero_tail_in_layer) return true;
        return std::any_of(tokens_.begin(), tokens_.end(), [&](const TokenFacts& other) {
            return other.kind != TokenKind::unreadable && other.zero_tail_rows < t.zero_tail_rows;
        });
    }

    void sinks() {
        const auto test = [this](const TokenFacts& t) {
            return t.kind == TokenKind::sub_probabilities && !torn(t);
        };
        const int64_t n = count(tokens_, test);
        if (n == 0 || !d_.findings.empty()) return;
        Finding& f = found(Cause::learned_sinks, n);
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), test);
        f.evidence.push_back(fmt::format(
            "in {} of {} tokens rows sum to less than 1 and none to more; token {}: {} of {} rows, "
            "the least {:.3f}",
            n, readable_, t.number, t.sub_rows, t.n_layer * t.n_head, t.row_sum_min));
        if (d_.capture.model.learned_sinks)
            f.evidence.push_back("the recording holds the model's sink logits");
        else
            f.undecided = "columns that were cut off would look alike; whether the model has learned sinks "
                          "(gpt-oss has) decides it";
    }

    // Sums below 1 that come and go between tokens are not a property of the model.
    void unknown() {
        const auto sub = [this](const TokenFacts& t) {
            return t.kind == TokenKind::sub_probabilities && !torn(t);
        };
        const auto whole = [](const TokenFacts& t) { return t.kind == TokenKind::probabilities; };
        const int64_t n_sub = count(tokens_, sub), n_whole = count(tokens_, whole);
        if (!d_.findings.empty() || d_.capture.model.learned_sinks || n_sub == 0) return;
        int64_t changes = 0;
        for (size_t i = 1; i < tokens_.size(); ++i)
            changes += sub(tokens_[i]) != sub(tokens_[i - 1]);
        const int64_t shares = most_sub_rows() * 4;
        const TokenFacts& t = first_readable();
        const bool few_rows = shares < int64_t(t.n_layer) * t.n_head;
        if (n_whole == 0 || changes <= 2 || !few_rows) return;
        Finding& f = found(Cause::unknown, n_sub);
        f.evidence.push_back(
            fmt::format("a few rows sum to less than 1 in {} tokens and to 1 in {} others, changing {} times",
                        n_sub, n_whole, changes));
        f.undecided = "weak learned sinks, or columns that were cut off: the model's sink logits or its "
                      "window would decide it";
    }
    int64_t most_sub_rows() const {
        int64_t most = 0;
        for (const TokenFacts& t : tokens_)
            most = std::max<int64_t>(most, t.sub_rows);
        return most;
    }

    void clean() {
        Finding& f = found(Cause::clean, readable_);
        const TokenFacts& t = first_readable();
        f.evidence.push_back(
            fmt::format("every row of {} tokens is non-negative and sums to 1 within {}%", readable_, 1));
        if (t.n_layer > 1)
            f.evidence.push_back("layers differ within every token, and tokens differ from one another");
        if (readable_ == 1 || t.n_layer == 1) {
            f.undecided =
                t.n_layer == 1
                    ? "one layer cannot be compared with others: whether it is the layer it is said to be "
                      "only the capturing program knows"
                    : "one token shows neither a race nor a stale frame nor a shifted cache";
        }
    }

    void decide_what_to_keep() {
        for (const TokenFacts& t : tokens_)
            d_.keep.push_back(keep_of(t));
    }
    Keep keep_of(const TokenFacts& t) const {
        if (t.kind == TokenKind::unreadable || t.kind == TokenKind::mixed ||
            t.kind == TokenKind::not_finite || t.kind == TokenKind::zeros || torn(t) || is_stale(t) ||
            lags(t)) {
            return Keep::nothing;
        }
        if (has(Cause::cells_for_positions) || has(Cause::unknown)) return Keep::nothing;
        if (racing_ && (some_one(t) || partly_stale(t) || all_one(t) || t.kind == TokenKind::scores))
            return Keep::nothing;
        // A token that escaped a race whole cannot be told from one whose layers are all of the wrong moment.
        if (racing_) return Keep::nothing;
        if (some_one(t)) return Keep::nothing;
        if (has(Cause::aliasing)) return all_one(t) && is_attention(t) ? Keep::last_layer : Keep::nothing;
        if (t.kind == TokenKind::scores) return Keep::scores;
        if (t.kind == TokenKind::transposed) return Keep::transposed;
        if (has(Cause::kv_heads)) return Keep::kv_heads;
        if (has(Cause::padding) && t.padding > 0) return Keep::cropped;
        return Keep::all;
    }

    const TokenFacts& first_readable() const {
        return *std::find_if(tokens_.begin(), tokens_.end(),
                             [](const TokenFacts& t) { return t.kind != TokenKind::unreadable; });
    }
    const TokenFacts& last_readable() const {
        return *std::find_if(tokens_.rbegin(), tokens_.rend(),
                             [](const TokenFacts& t) { return t.kind != TokenKind::unreadable; });
    }

    Diagnosis& d_;
    Tokens tokens_;
    const UnreadableTokens& unreadable_;
    int64_t readable_ = 0;
    bool racing_ = false;
    bool fixed_partition_ = false;
};

} // namespace

void name_causes(Diagnosis& diagnosis, const UnreadableTokens& unreadable) {
    std::vector<bool> bad;
    for (const TokenFacts& t : diagnosis.tokens) {
        bad.push_back(!is_attention(t) || some_one(t) || partly_stale(t) || is_stale(t) || all_one(t));
    }
    diagnosis.pattern = find_pattern(diagnosis.tokens, bad);
    Causes(diagnosis, unreadable).run();
    diagnosis.conclusion = conclude(diagnosis);
}

std::string conclude(const Diagnosis& diagnosis) {
    std::string text;
    for (const Finding& finding : diagnosis.findings) {
        if (!text.empty()) text += " ";
        text += fmt::format("{} ({} of {} tokens). ", cause_title(finding.cause), finding.n_tokens,
                            diagnosis.tokens.size());
        text += std::string("Keep: ") + finding.keep + ".";
        if (cause_is_damage(finding.cause)) text += std::string(" At the source: ") + finding.fix + ".";
    }
    return text;
}

} // namespace attnscope
