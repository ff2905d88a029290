// Where a token's weights lie: columns that are never used, and the column that the newest token went to.
#include "diagnose/token_facts.h"

#include <algorithm>
#include <cmath>

namespace attnscope::diagnose {

namespace {

constexpr int64_t shortest_hole = 2; // columns: a single zero inside a row is underflow more often than a mask
constexpr int64_t broad_support = 8; // columns a layer must use before its silence elsewhere means something
constexpr size_t sampled_rows = 64;

} // namespace

// A layer whose rows all leave the same hole, or all end before the newest position, was masked by cells: a
// position further on is visible again, or the newest one is not.
void TokenFactsMaker::look_at_support(const DumpToken& token, TokenFacts& facts) const {
    if (facts.kind != TokenKind::probabilities && facts.kind != TokenKind::sub_probabilities) return;
    const size_t heads = static_cast<size_t>(token.n_head), n = static_cast<size_t>(token.n_context);
    const int64_t newest = token.n_context - 1 - facts.columns.padding;
    std::vector<float> most(n);
    int64_t wrapped_end = -1, others_begin = token.n_context; // columns
    const auto another = [&](size_t l) {
        for (size_t r = l * heads; r < (l + 1) * heads; ++r) {
            const int64_t first = first_nonzero(token.values.data() + r * n, n);
            if (first >= 0) others_begin = std::min(others_begin, first);
        }
    };
    for (size_t l = 0; l < static_cast<size_t>(token.n_layer); ++l) {
        if (layers_[l].zero) continue;
        if (layers_[l].trivial) {
            another(l);
            continue;
        }
        // cheap first: a row that reaches from its first to its newest column without a zero speaks for its
        // layer
        bool suspicious = true;
        for (size_t h = 0; h < heads && suspicious; ++h) {
            const RowStatistics& row = rows_[l * heads + h];
            const float* values = token.values.data() + (l * heads + h) * n;
            const int64_t before = row.zeros == 0 ? 0 : std::max<int64_t>(0, first_nonzero(values, n));
            suspicious = row.zeros - before - facts.columns.padding >= shortest_hole;
        }
        if (!suspicious) {
            another(l);
            continue;
        }
        std::fill(most.begin(), most.end(), 0.0f);
        for (size_t h = 0; h < heads; ++h) {
            const float* row = token.values.data() + (l * heads + h) * n;
            for (size_t c = 0; c < n; ++c) most[c] = std::max(most[c], row[c]);
        }
        const int64_t first = first_nonzero(most.data(), n), last = last_nonzero(most.data(), n);
        int64_t used = 0, hole = 0, hole_begin = -1;
        for (int64_t c = first; c <= last; ++c) {
            if (most[static_cast<size_t>(c)] != 0.0f) {
                ++used;
                continue;
            }
            int64_t end = c;
            while (most[static_cast<size_t>(end)] == 0.0f) ++end; // `last` is not zero
            if (end - c > hole) {
                hole = end - c;
                hole_begin = c;
            }
            c = end - 1;
        }
        const bool ends_early = last <= newest - shortest_hole;
        if (used >= broad_support && (hole >= shortest_hole || ends_early)) {
            if (facts.columns.wrapped_layers++ == 0)
                facts.columns.wrap_edge = hole >= shortest_hole ? hole_begin - 1 : last;
            wrapped_end = std::max(wrapped_end, last + 1);
        } else {
            another(l);
        }
    }
    facts.columns.two_texts = others_begin < token.n_context && 0 < wrapped_end && wrapped_end <= others_begin;
}

// Of scores: how far apart the entries of a row lie, and how much a softmax of them would give to the
// largest.
void TokenFactsMaker::look_at_scores(const DumpToken& token, TokenFacts& facts) const {
    if (facts.kind != TokenKind::scores) return;
    const size_t n = static_cast<size_t>(token.n_context), step = std::max<size_t>(1, rows_.size() / sampled_rows);
    std::vector<double> peaks, spreads;
    for (size_t r = 0; r < rows_.size(); r += step) {
        const RowStatistics& row = rows_[r];
        const float* values = token.values.data() + r * n;
        double exponentials = 0, squares = 0;
        int64_t count = 0;
        const double mean = row.sum / std::max(1.0, static_cast<double>(token.n_context - row.masked - row.zeros));
        for (size_t c = 0; c < n; ++c) {
            const double x = static_cast<double>(values[c]);
            const bool masked = values[c] <= mask_limit || (row.mask_high < 0 && values[c] <= row.mask_high);
            if (masked || values[c] == 0.0f) continue;
            exponentials += std::exp(x - static_cast<double>(row.max));
            squares += (x - mean) * (x - mean);
            ++count;
        }
        if (count < 2) continue;
        peaks.push_back(1 / std::max(1.0, exponentials));
        spreads.push_back(std::sqrt(squares / static_cast<double>(count)));
    }
    if (peaks.empty()) return;
    const auto middle = [](std::vector<double>& v) {
        std::nth_element(v.begin(), v.begin() + static_cast<int64_t>(v.size() / 2), v.end());
        return v[v.size() / 2];
    };
    facts.scores.peakedness = middle(peaks);
    facts.scores.spread = middle(spreads);
}

// The column that grew most since a token of the same width is where the newest token's key lies.
void TokenFactsMaker::look_at_profile(const DumpToken& token, TokenFacts& facts) {
    const size_t n = static_cast<size_t>(token.n_context), step = std::max<size_t>(1, rows_.size() / sampled_rows);
    const bool usable = facts.kind == TokenKind::probabilities || facts.kind == TokenKind::sub_probabilities;
    std::swap(profile_, previous_profile_);
    profile_.assign(usable ? n : 0, 0.0f);
    if (!usable) return;
    for (size_t r = 0; r < rows_.size(); r += step) {
        const float* row = token.values.data() + r * n;
        for (size_t c = 0; c < n; ++c) profile_[c] += row[c];
    }
    if (previous_profile_.size() != n || n < 8 || facts.layers.repeats >= 0) return;
    const float floor = 0.05f * static_cast<float>(rows_.size() / step) / static_cast<float>(n);
    float largest = 0;
    for (size_t c = 0; c < n; ++c) {
        const float growth = (profile_[c] + floor) / (previous_profile_[c] + floor);
        if (growth > largest) {
            largest = growth;
            facts.columns.newest = static_cast<int64_t>(c);
        }
    }
}

} // namespace attnscope::diagnose
