// What was done to weights after the softmax: dropout, another scale, a coarse step; and where a prompt's rows lie.
#include "diagnose/row_steps.h"
#include "diagnose/token_facts.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace attnscope::diagnose {

namespace {

constexpr int64_t dropout_columns = 8; // a layer must use so many before its zeros are counted

bool is_empty_row(const RowStatistics& row, int64_t n) {
    return row.not_finite + row.masked + row.zeros == n;
}

} // namespace

void TokenFactsMaker::look_at_changes(const DumpToken& token, TokenFacts& facts) const {
    const size_t n = static_cast<size_t>(token.n_context);
    facts.rows.sum_min = std::numeric_limits<double>::infinity();
    facts.rows.sum_max = -std::numeric_limits<double>::infinity();
    for (size_t r = 0; r < rows_.size(); ++r) {
        const RowStatistics& row = rows_[r];
        if (is_empty_row(row, token.n_context)) {
            ++facts.rows.empty;
            continue;
        }
        ++facts.rows.n;
        facts.rows.sum_min = std::min(facts.rows.sum_min, row.sum);
        facts.rows.sum_max = std::max(facts.rows.sum_max, row.sum);
        const bool uniform = row.min == row.max && row.not_finite + row.masked == 0 && row.max > 0;
        facts.rows.uniform += uniform;
        const float* values = token.values.data() + r * n;
        if (token.own_column >= 0 && row.not_finite == 0) {
            const size_t own = static_cast<size_t>(token.own_column);
            facts.prompt.behind_rows += row.masked == 0 && first_nonzero(values, n) >= token.own_column;
            double ahead = 0;
            for (size_t c = own + 1; c < n; ++c)
                ahead += values[c] > mask_begin ? std::abs(static_cast<double>(values[c])) : 0.0;
            facts.prompt.ahead_rows += ahead > 0;
            facts.prompt.ahead_weight += ahead;
        }
        if (row.min < 0 || row.masked + row.not_finite > 0) continue;
        if (facts.steps.row_top == 0)
            facts.steps.row_top = row.max == 1.0f || row.max == 100.0f || row.max == 255.0f ? row.max : -1.0f;
        facts.steps.max_one_rows += row.max == facts.steps.row_top;
        if (token.n_context - row.zeros < step_numbers) continue;
        float least = row.max;
        for (size_t c = 0; c < n; ++c) least = values[c] > 0 ? std::min(least, values[c]) : least;
        const bool even = least > 0.9f * row.max; // a multiple of any part of its largest number
        auto& counts = even ? facts.steps.even_fits : facts.steps.fits;
        ++(even ? facts.steps.even_rows : facts.steps.rows);
        for (uint32_t fits = fitting_steps(values, n, row.max); fits != 0; fits &= fits - 1)
            ++counts[static_cast<size_t>(std::countr_zero(fits))];
    }
    if (facts.rows.n == 0) facts.rows.sum_min = facts.rows.sum_max = 0;
}

// Zeros where another row of the layer is not 0. Rows of few columns are left out: chance rules there.
void TokenFactsMaker::look_at_dropout(const DumpToken& token, TokenFacts& facts) const {
    if (facts.numbers.min < 0 || facts.numbers.n_masked + facts.numbers.n_not_finite > 0) return;
    const size_t heads = static_cast<size_t>(token.n_head), n = static_cast<size_t>(token.n_context);
    if (heads < 2) return;
    for (size_t l = 0; l < static_cast<size_t>(token.n_layer); ++l) {
        const auto used = used_.begin() + static_cast<int64_t>(l * n);
        const auto first = std::find(used, used + token.n_context, 1);
        int64_t columns = 0; // from the first used one to the last
        for (auto c = first; c != used + token.n_context; ++c)
            if (*c) columns = c - first + 1;
        if (columns < dropout_columns) continue;
        for (size_t h = 0; h < heads; ++h) {
            const RowStatistics& row = rows_[l * heads + h];
            const double k = static_cast<double>(columns - (token.n_context - row.zeros));
            ++facts.dropout.rows;
            facts.dropout.n += static_cast<double>(columns);
            facts.dropout.k += k;
            facts.dropout.kk += k * k / static_cast<double>(columns);
            facts.dropout.sum += row.sum;
        }
    }
}

// Which columns each layer uses, against the token before: a cache that drops positions never uses one again, and
// always uses the newest; a ring of cells does neither.
void TokenFactsMaker::look_at_columns(const DumpToken& token, TokenFacts& facts) {
    const size_t heads = static_cast<size_t>(token.n_head), n = static_cast<size_t>(token.n_context);
    const size_t n_layer = static_cast<size_t>(token.n_layer);
    std::swap(used_, previous_used_);
    used_.assign(n_layer * n, 0);
    for (size_t l = 0; l < n_layer; ++l) {
        for (size_t h = 0; h < heads; ++h) {
            const float* row = token.values.data() + (l * heads + h) * n;
            for (size_t c = 0; c < n; ++c) used_[l * n + c] |= row[c] != 0.0f;
        }
    }
    const int64_t newest = token.n_context - 1 - facts.columns.padding;
    const bool usable = facts.kind == TokenKind::probabilities || facts.kind == TokenKind::sub_probabilities;
    if (usable) {
        const bool comparable = previous_used_context_ > 0 && previous_used_layers_ == token.n_layer;
        for (size_t l = 0; l < n_layer; ++l) {
            if (layers_[l].zero) continue;
            const uint8_t* used = used_.data() + l * n;
            if (std::count(used, used + n, 1) < dropout_columns) continue; // too few to say anything
            int64_t last = token.n_context - 1;
            while (last >= 0 && !used[last]) --last;
            facts.columns.behind_layers += last < newest - 1;
            int64_t hole_end = last - 1;
            while (hole_end >= 0 && !used[hole_end]) --hole_end;
            facts.columns.lone_last_layers += last == token.n_context - 1 && last - hole_end > 2;
            if (!comparable) continue;
            const uint8_t* before = previous_used_.data() + l * static_cast<size_t>(previous_used_context_);
            bool reused = false;
            for (int64_t c = 0; c <= std::min(previous_newest_, token.n_context - 1); ++c)
                reused = reused || (used[c] && !before[c]);
            facts.columns.reused_layers += reused;
        }
    }
    previous_used_context_ = usable ? token.n_context : 0;
    previous_used_layers_ = token.n_layer;
    previous_newest_ = newest;
}

} // namespace attnscope::diagnose
