// What was done to weights after the softmax, or beside it: each a hypothesis that has to predict the numbers.
#include "diagnose/cause_finder.h"
#include "diagnose/row_steps.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace attnscope::diagnose {

bool only_weights(const TokenFacts& t) {
    return t.kind != TokenKind::unreadable && t.kind != TokenKind::padding && t.numbers.min >= 0 &&
           t.numbers.n_masked + t.numbers.n_not_finite + t.numbers.n_half_limit == 0 && t.rows.n > 0;
}

namespace {

constexpr int64_t enough_rows = 20;

} // namespace

void CauseFinder::explain() {
    padding_queries();
    other_axis();
    dropout();
    rescaled();
    quantised();
}

// Binomial: of n columns that a layer uses, each is 0 with the same chance, and what is left was divided by one minus it.
void CauseFinder::dropout() {
    double rows = 0, n = 0, k = 0, kk = 0, sums = 0;
    float max = 0;
    int64_t off = 0;
    for (const TokenFacts& t : tokens_) {
        if (!only_weights(t)) continue;
        rows += static_cast<double>(t.dropout.rows);
        n += t.dropout.n;
        k += t.dropout.k;
        kk += t.dropout.kk;
        sums += t.dropout.sum;
        max = std::max(max, t.numbers.max);
        off += t.kind != TokenKind::probabilities;
    }
    if (rows < enough_rows || off * 2 < readable_ || has(Cause::other_axis)) return;
    const double r = k / n;
    if (r < 0.005 || r > 0.9) return;
    const double spread = (kk - 2 * r * k + r * r * n) / (r * (1 - r) * rows), mean = sums / rows;
    if (spread < 0.5 || spread > 1.6 || std::abs(mean - 1) > 0.1 || double(max) > 1.02 / (1 - r) + 0.02) return;
    const double sigma = std::sqrt(r * (1 - r) / n), nice = std::round(r * 20) / 20;
    const double rate = nice > 0 && std::abs(r - nice) < std::max(4 * sigma, 0.004) ? nice : r;
    int64_t n_tokens = 0;
    for (TokenFacts& t : d_.tokens) {
        if (!only_weights(t)) continue;
        t.kind = TokenKind::weights;
        ++n_tokens;
    }
    Finding& f = found(Cause::dropout, n_tokens);
    f.evidence.push_back(
        fmt::format("{:.0f} of {:.0f} numbers in used columns are exactly 0, {:.1f}%, scattered as by chance: "
                    "from row to row their share varies {:.2f} times as much as chance would have it, "
                    "in {:.0f} rows",
                    k, n, 100 * r, spread, rows));
    f.evidence.push_back(
        fmt::format("rate {:.3g}: what is left is then divided by {:.3g}, so that the mean of the rows' sums stays 1 "
                    "({:.3f} here) and no weight exceeds {:.4g} ({:.4g} here)",
                    rate, 1 - rate, mean, 1 / (1 - rate), double(max)));
}

void CauseFinder::rescaled() {
    if (!d_.findings.empty() && (has(Cause::dropout) || has(Cause::other_axis))) return;
    std::vector<double> sums;
    int64_t rows = 0, topped = 0, tokens = 0, exceeding = 0;
    float top = 0;
    for (const TokenFacts& t : tokens_) {
        if (!only_weights(t)) continue;
        ++tokens;
        sums.push_back((t.rows.sum_min + t.rows.sum_max) / 2);
        rows += t.rows.n;
        if (top == 0) top = t.steps.row_top;
        if (t.steps.row_top == top) topped += t.steps.max_one_rows;
        exceeding += t.rows.sum_max > 1.02 * double(t.steps.row_top);
    }
    if (sums.empty()) return;
    std::nth_element(sums.begin(), sums.begin() + int64_t(sums.size() / 2), sums.end());
    const double c = sums[sums.size() / 2];
    const auto constant = [&](const TokenFacts& t) {
        return only_weights(t) && t.rows.sum_min >= 0.99 * c && t.rows.sum_max <= 1.01 * c;
    };
    const int64_t n = count(tokens_, constant);
    const auto explain_all = [&](const TokenTest& test) {
        for (TokenFacts& t : d_.tokens) {
            if (test(t)) t.kind = TokenKind::weights;
        }
    };
    if (std::abs(c - 1) > 0.02 && c > 1e-6 && n * 20 >= tokens * 19 && n * 20 >= readable_ * 19) {
        double low = c, high = c;
        int64_t n_rows = 0;
        for (const TokenFacts& t : tokens_) {
            if (!constant(t)) continue;
            low = std::min(low, t.rows.sum_min);
            high = std::max(high, t.rows.sum_max);
            n_rows += t.rows.n;
        }
        const TokenFacts& t = first_readable();
        const char* what = std::abs(c - 100) < 1 ? ": percent"
                           : std::abs(c - t.n_head) < 0.01 * c
                               ? ": as many as heads, so that heads were summed up, or each weighs in whole"
                           : std::abs(c - t.n_layer) < 0.01 * c ? ": as many as layers, so that layers were summed up"
                                                                : "";
        explain_all(constant);
        Finding& f = found(Cause::rescaled, n);
        f.evidence.push_back(
            fmt::format("{} of {} rows sum to {:.4g} ({:.4g} to {:.4g}){}", n_rows, rows, c, low, high, what));
        return;
    }
    if (top <= 0 || rows < enough_rows || topped * 100 < rows * 98 || exceeding * 2 < tokens) return;
    const TokenTest test = [](const TokenFacts& t) { return only_weights(t); };
    explain_all(test);
    Finding& f = found(Cause::rescaled, tokens);
    double low = sums.front(), high = 0;
    for (const TokenFacts& t : tokens_) {
        if (!only_weights(t)) continue;
        low = std::min(low, t.rows.sum_min);
        high = std::max(high, t.rows.sum_max);
    }
    f.evidence.push_back(
        fmt::format("the largest number of {} of {} rows is exactly {}, and rows sum to {:.3g} up to {:.3g}: each was "
                    "divided by its largest weight",
                    topped, rows, double(top), low, high));
}

// The coarsest step that nearly every row keeps to. Then sums have to be off by no more than half a step for each number.
void CauseFinder::quantised() {
    // of a part of 1 also rows of one number tell; of a part of the row's largest number they do not
    std::array<int64_t, n_steps> all{}, fits{};
    for (const TokenFacts& t : tokens_) {
        if (!only_weights(t)) continue;
        for (size_t i = 0; i < n_steps; ++i) {
            const bool own = row_step_list[i].of_row_max;
            all[i] += t.steps.rows + (own ? 0 : t.steps.even_rows);
            fits[i] += t.steps.fits[i] + (own ? 0 : t.steps.even_fits[i]);
        }
    }
    size_t step = 0;
    while (step < n_steps && (all[step] < enough_rows || fits[step] * 100 < all[step] * 99)) ++step;
    if (step == n_steps) return;
    const int64_t rows = all[step];
    const Step& chosen = row_step_list[step];
    int64_t n = 0, within = 0;
    double low = std::numeric_limits<double>::infinity(), high = 0;
    for (TokenFacts& t : d_.tokens) {
        if (!only_weights(t) || t.steps.fits[step] + t.steps.even_fits[step] == 0) continue;
        ++n;
        const double bound =
            0.5 * chosen.size * double(chosen.of_row_max ? t.numbers.max : 1.0f) * double(t.n_context) + 0.01;
        low = std::min(low, t.rows.sum_min);
        high = std::max(high, t.rows.sum_max);
        if (has(Cause::rescaled) || (1 - t.rows.sum_min <= bound && t.rows.sum_max - 1 <= bound)) {
            ++within;
            t.kind = TokenKind::weights;
        }
    }
    if (n == 0) return;
    Finding& f = found(Cause::quantised, n);
    f.evidence.push_back(
        fmt::format("{} of {} rows hold nothing but whole multiples of {}", fits[step], rows, chosen.name));
    if (has(Cause::rescaled)) return;
    f.evidence.push_back(
        fmt::format("rows sum to {:.3f} up to {:.3f}; in {} of {} tokens that is within half a step for each number "
                    "of a row, as rounding leaves it",
                    low, high, within, n));
    if (within < n) f.undecided = "why sums of the other tokens are further off than rounding explains";
}

// A row holds its positions, nothing after them, and one number more in the very last column.
void CauseFinder::sink_column() {
    if (!d_.dump.rectangular || readable_ < enough_pairs + 3) return;
    const auto lone = [](const TokenFacts& t) {
        return is_attention(t) && t.columns.lone_last_layers > 0 &&
               t.columns.lone_last_layers == t.n_layer - t.layers.zero;
    };
    // the last tokens' positions reach the last column
    const int64_t n = count(tokens_, lone);
    if (n < enough_pairs || n + 4 < readable_) return;
    int64_t pairs = 0;
    const double advancing = share_advancing(tokens_, &TokenFacts::Columns::wrap_edge, pairs);
    if (pairs < enough_pairs || advancing < 0.8) return;
    Finding& f = found(Cause::sink_column, readable_);
    const TokenFacts& t = *std::find_if(tokens_.begin(), tokens_.end(), lone);
    f.evidence.push_back(
        fmt::format("every layer of {} of {} tokens uses columns up to its own position, then none, and then the last "
                    "one, {} (token {}); the rows sum to 1 with it",
                    n, readable_, t.n_context - 1, t.number));
}

} // namespace attnscope::diagnose
