#include "diagnose/cause_finder.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace attnscope::diagnose {

void CauseFinder::transposed() {
    const auto test = [](const TokenFacts& t) { return t.kind == TokenKind::transposed; };
    const int64_t n = count(tokens_, test);
    if (n == 0) return;
    Finding& f = found(Cause::transposed, n);
    const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), test);
    f.evidence.push_back(
        fmt::format("rows sum to {:.3g} up to {:.3g}, but over the other axis every sum is 1 (token {})",
                    t.numbers.row_sum_min, t.numbers.row_sum_max, t.number));
}

void CauseFinder::kv_heads() {
    const StatedModel& model = d_.dump.model;
    const auto grouped = [](const TokenFacts& t) { return t.layers.head_group > 1; };
    const auto informative = [](const TokenFacts& t) { return t.kind != TokenKind::unreadable && !t.layers.trivial; };
    const int64_t n = count(tokens_, grouped);
    if (n > 0 && n == count(tokens_, informative)) {
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), grouped);
        Finding& f = found(Cause::kv_heads, n);
        f.evidence.push_back(
            fmt::format("the {} heads come in runs of {} that are equal bit by bit, in every layer: {} "
                        "different rows, as many as KV heads",
                        t.n_head, t.layers.head_group, t.n_head / t.layers.head_group));
        if (model.n_head_kv == 0) {
            f.undecided = "the model's number of KV heads would confirm it";
        }
        return;
    }
    const TokenFacts& t = first_readable();
    if (model.n_head_kv > 0 && model.n_head > model.n_head_kv && t.n_head == model.n_head_kv &&
        t.kind != TokenKind::transposed) {
        Finding& f = found(Cause::kv_heads, readable_);
        f.evidence.push_back(fmt::format("{} heads were captured; the capture states {} query heads and {} KV heads",
                                         t.n_head, model.n_head, model.n_head_kv));
        f.undecided = "whether the rows are means over each group of query heads or one of them";
    }
}

// A column that no row used is used again: a ring's cells are, positions that a cache dropped are not.
bool CauseFinder::reuses_columns() const {
    int64_t pairs = 0, reusing = 0;
    for (size_t i = 1; i < tokens_.size(); ++i) {
        if (tokens_[i].columns.wrapped_layers == 0 || !is_attention(tokens_[i - 1])) continue;
        ++pairs;
        reusing += tokens_[i].columns.reused_layers > 0;
    }
    return pairs == 0 || reusing * 20 > pairs;
}

// Columns are positions, and some are not used any more.
void CauseFinder::evicted() {
    if (has(Cause::quantised) || has(Cause::sink_column)) return;
    const auto holed = [](const TokenFacts& t) { return t.columns.wrapped_layers > 0; };
    const auto newest = [](const TokenFacts& t) {
        return t.columns.wrapped_layers > 0 && t.columns.behind_layers == 0;
    };
    const int64_t n = count(tokens_, holed), n_newest = count(tokens_, newest);
    int64_t pairs = 0;
    for (size_t i = 1; i < tokens_.size(); ++i) pairs += holed(tokens_[i]) && is_attention(tokens_[i - 1]);
    if (n == 0 || pairs < enough_pairs || n_newest * 20 < n * 19 || reuses_columns()) return;
    Finding& f = found(Cause::evicted, n);
    const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), holed);
    f.evidence.push_back(
        fmt::format("{} of {} tokens leave columns out between used ones (token {}: {} of {} layers, after column {})",
                    n, readable_, t.number, t.columns.wrapped_layers, t.n_layer, t.columns.wrap_edge));
    f.evidence.push_back(fmt::format(
        "the newest position is used in every layer of {} of these tokens, and in {} steps no column that a "
        "token left out is used again: a ring of cells would do neither",
        n_newest, pairs));
}

namespace {

// Columns are left out, and not because they are cells of a ring: the layer looks at another text (cross attention), or at a window to
// both sides, which goes on behind the token's own position.
bool columns_are_positions(const TokenFacts& t) {
    const bool both_sides = t.prompt.own_column >= 0 && t.columns.wrap_edge > t.prompt.own_column;
    return t.columns.wrapped_layers > 0 && (t.columns.two_texts || both_sides);
}

} // namespace

void CauseFinder::cells() {
    if (d_.dump.format == "attn")
        return; // its columns are named, and tokens may look both ways, or at what they choose
    if (has(Cause::evicted) || has(Cause::sink_column) || has(Cause::quantised)) return;
    const auto holed = [](const TokenFacts& t) { return t.columns.wrapped_layers > 0; };
    const auto beyond = [](const TokenFacts& t) {
        return is_attention(t) && t.stated_context >= 0 && t.n_context - t.columns.padding > t.stated_context;
    };
    const auto behind = [](const TokenFacts& t) {
        return t.columns.newest >= 0 && t.columns.newest < t.n_context - 1 - t.columns.padding &&
               (t.prompt.own_column < 0 ||
                t.columns.newest < t.prompt.own_column); // there it belongs, or comes into sight
    };
    int64_t hole_pairs = 0, newest_pairs = 0;
    const double hole_share = share_advancing(tokens_, &TokenFacts::Columns::wrap_edge, hole_pairs);
    const double newest_share = share_advancing(tokens_, &TokenFacts::Columns::newest, newest_pairs);
    const int64_t n_holed = count(tokens_, holed), n_beyond = count(tokens_, beyond), n_behind = count(tokens_, behind);
    const int64_t n_explained = count(tokens_, columns_are_positions);
    const bool explained = n_explained > 0 && n_explained * 10 >= n_holed * 9;
    const bool hole_moves = !explained && hole_pairs >= enough_pairs && hole_share >= 0.6 && reuses_columns();
    const int64_t n_left_out =
        count(tokens_, [](const TokenFacts& t) { return t.columns.wrapped_layers > 0 && t.columns.behind_layers > 0; });
    const bool hole_stays = !explained && n_left_out * 10 >= n_holed * 9 && n_holed >= 4 &&
                            n_holed * 10 >= readable_ * 9 && edge_stays_while_context_grows();
    const bool newest_moves = newest_pairs > enough_pairs && newest_share >= 0.8 && n_behind * 2 > newest_pairs;
    if (!hole_moves && !hole_stays && !newest_moves && n_beyond == 0) return;
    Finding& f = found(Cause::cells_for_positions,
                       std::max({hole_moves || hole_stays ? n_holed : 0, newest_moves ? n_behind : 0, n_beyond}));
    if (hole_moves) {
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), holed);
        f.evidence.push_back(
            fmt::format("in {} tokens whole layers leave out columns before used ones (token {}: {} layers, "
                        "after column {}), and that place moves on by one with each token: the newest "
                        "token lies there, older ones behind it",
                        n_holed, t.number, t.columns.wrapped_layers, t.columns.wrap_edge));
    }
    if (hole_stays) {
        f.evidence.push_back(fmt::format("in {} of {} tokens the same layers leave the newest positions out while "
                                         "others use them, and their columns "
                                         "end in the same place: where a smaller, circular cache ends",
                                         n_left_out, readable_));
    }
    if (newest_moves) {
        f.evidence.push_back(
            fmt::format("from token to token the column that gains most moves on by one ({:.0f}% of {} "
                        "steps) in the middle of the row: the newest key is written there",
                        100 * newest_share, newest_pairs));
    }
    if (n_beyond > 0) {
        f.evidence.push_back(fmt::format("{} tokens give weight to columns beyond their stated context length ({})",
                                         n_beyond, which(tokens_, beyond)));
    }
    f.undecided = "which position each column holds: the positions of the cells at each token would tell";
}

bool CauseFinder::edge_stays_while_context_grows() const {
    int64_t pairs = 0, same = 0, grows = 0;
    for (size_t i = 1; i < tokens_.size(); ++i) {
        if (tokens_[i].columns.wrap_edge < 0 || tokens_[i - 1].columns.wrap_edge < 0) continue;
        ++pairs;
        same += tokens_[i].columns.wrap_edge == tokens_[i - 1].columns.wrap_edge &&
                tokens_[i].columns.wrapped_layers == tokens_[i - 1].columns.wrapped_layers;
        grows += tokens_[i].n_context - tokens_[i].columns.padding >
                 tokens_[i - 1].n_context - tokens_[i - 1].columns.padding;
    }
    return pairs >= enough_pairs && same * 10 >= pairs * 9 && grows * 10 >= pairs * 9;
}

void CauseFinder::padding() {
    const auto padded = [this](const TokenFacts& t) {
        return is_attention(t) && t.columns.padding > 0 && !lags(t) && !is_stale(t);
    };
    const int64_t n = count(tokens_, padded);
    if (n == 0 || has(Cause::cells_for_positions) || has(Cause::sink_column)) return;
    int64_t stated = 0, pairs = 0, filling = 0;
    for (size_t i = 0; i < tokens_.size(); ++i) {
        const TokenFacts& t = tokens_[i];
        if (!padded(t)) continue;
        stated += t.stated_context >= 0 && t.stated_context <= t.n_context - t.columns.padding;
        if (i == 0 || !padded(tokens_[i - 1])) continue;
        ++pairs;
        const int64_t used = t.n_context - t.columns.padding,
                      before = tokens_[i - 1].n_context - tokens_[i - 1].columns.padding;
        filling += used == before + 1;
    }
    const TokenFacts& last = last_readable();
    bool yes = stated > 0;
    if (d_.dump.rectangular) {
        // stacked tokens share the width of the longest, so the last one has to reach the end
        // (a last token that cannot be read is no evidence), and a prompt's queries end where they are
        yes = yes || (padded(last) && last.columns.padding >= 2 && last.index + 1 == int64_t(tokens_.size()) &&
                      !d_.dump.prompt);
    } else {
        const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), padded);
        yes = yes || (pairs >= enough_pairs && filling * 10 >= pairs * 9) ||
              (t.n_context % 32 == 0 && t.columns.padding >= 2 && !t.layers.trivial && n == readable_);
    }
    if (!yes) return;
    Finding& f = found(Cause::padding, n);
    const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), padded);
    f.evidence.push_back(fmt::format(
        "the last columns are exactly 0 in every row of {} tokens; token {}: {} of {} columns{}", n, t.number,
        t.columns.padding, t.n_context, t.n_context % 256 == 0 ? ", and the width is a multiple of 256" : ""));
    if (pairs > 0) {
        f.evidence.push_back(
            fmt::format("the used part grows by one column a token in {} of {} steps", filling, pairs));
    }
    if (stated > 0) f.evidence.push_back(fmt::format("{} tokens state a shorter context length themselves", stated));
}

} // namespace attnscope::diagnose
