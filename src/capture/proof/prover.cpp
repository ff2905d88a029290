// Proofs of several tokens from one pass over the keys and values of the head they share.
#include "attention/fingerprint.h"
#include "capture/proof/witness.h"

#include <attnscope/rows.h>

#include <algorithm>
#include <array>

namespace attnscope::capture {

namespace {

static_assert(capture::max_proofs_together <= attention::max_tokens_together);

bool same_head(const capture::HeadSample& a, const capture::HeadSample& b) {
    return a.layer == b.layer && a.layer_index == b.layer_index && a.head == b.head && a.k == b.k &&
           a.k_stride == b.k_stride && a.n_cells == b.n_cells && a.v == b.v && a.v_type == b.v_type &&
           a.v_used == b.v_used && a.v_cell_stride == b.v_cell_stride && a.v_dim_stride == b.v_dim_stride &&
           a.batched == b.batched && a.flash == b.flash && a.device == b.device &&
           a.columns.data() == b.columns.data() && a.positions.data() == b.positions.data() &&
           a.positions.size() == b.positions.size();
}

attention::TokenValues values_of(const capture::HeadSample& s) {
    return {s.v, s.v_cell_stride, s.v_dim_stride, s.v_type, s.layer->head_dim_v};
}

// Would attention_rows compute this row?
bool computable(const capture::HeadSample& s, std::span<const int32_t> positions) {
    const KeyBlock keys{s.k, 0, s.n_cells, s.k_stride};
    RowsRequest request;
    request.layer = s.layer;
    request.q = s.q;
    request.keys = {&keys, 1};
    request.visible = s.visible;
    request.n_columns = s.n_cells;
    request.position = s.position;
    request.positions = positions;
    request.batched = s.batched;
    request.head_begin = s.head;
    request.head_end = s.head + 1;
    return attention::plan_rows(request, size_t(s.n_cells), 0).ok();
}

// Sums and fingerprints of several rows. Each row adds its columns in ascending order, as witness_head does; the rows
// take turns, so that an addition need not wait for the one before it.
struct RowSums {
    std::array<double, attention::max_tokens_together> sum{}, fingerprint{};

    template <size_t R>
    void add(const attention::TokenRows& rows, const size_t* tokens, int64_t at, std::span<const double> weights) {
        double s[R], f[R];
        const float* row[R];
        for (size_t r = 0; r < R; ++r) {
            s[r] = sum[tokens[r]];
            f[r] = fingerprint[tokens[r]];
            row[r] = rows.row(tokens[r]) + at;
        }
        for (size_t j = 0; j < weights.size(); ++j) {
            for (size_t r = 0; r < R; ++r) {
                const auto p = static_cast<double>(row[r][j]);
                s[r] += p;
                f[r] += p * weights[j];
            }
        }
        for (size_t r = 0; r < R; ++r) {
            sum[tokens[r]] = s[r];
            fingerprint[tokens[r]] = f[r];
        }
    }

    void add(const attention::TokenRows& rows, const capture::HeadSample& sample) {
        std::array<double, 256> weights{};
        std::array<size_t, attention::max_tokens_together> tokens{};
        for (const attention::SharedColumns& s : rows.shared) {
            size_t n_tokens = 0;
            for (size_t t = 0; t < attention::max_tokens_together; ++t) {
                if (s.tokens >> t & 1) tokens[n_tokens++] = t;
            }
            for (int64_t at = s.begin; at < s.end;) {
                const auto n = static_cast<size_t>(std::min(s.end - at, static_cast<int64_t>(weights.size())));
                for (size_t j = 0; j < n; ++j)
                    weights[j] = attention::fingerprint_weight(sample.column(at + static_cast<int64_t>(j)));
                size_t t = 0;
                for (; t + 4 <= n_tokens; t += 4) add<4>(rows, &tokens[t], at, std::span(weights).first(n));
                for (; t < n_tokens; ++t) add<1>(rows, &tokens[t], at, std::span(weights).first(n));
                at += static_cast<int64_t>(n);
            }
        }
    }
};

} // namespace

void Prover::prove_together(std::span<const capture::HeadSample> samples, const attention::RowsPlan& plan,
                            std::span<Witness> witnesses) {
    const capture::HeadSample& first = samples.front();
    const LayerInfo& layer = *first.layer;
    tokens_.clear();
    for (const capture::HeadSample& s : samples)
        tokens_.push_back({s.q + size_t(s.head) * plan.q_head_bytes, s.visible, s.position});
    attention::TokenRowsRequest request;
    request.layer = &layer;
    request.plan = &plan;
    request.tokens = tokens_;
    request.head = first.head;
    request.k = first.k + size_t(first.head / plan.group) * plan.k_head_bytes;
    request.k_stride = first.k_stride;
    request.n_columns = first.n_cells;
    request.positions = positions_;
    request.batched = first.batched;
    attention::token_rows(attention::row_kernels(), request, rows_);
    RowSums row_sums;
    row_sums.add(rows_, first);
    const bool with_largest = std::any_of(samples.begin(), samples.end(), takes_largest);
    attention::weigh_tokens(attention::row_kernels(), values_of(first), rows_, samples.size(), with_largest, sums_);
    std::array<const float*, attention::max_tokens_together> rows{};
    for (size_t i = 0; i < samples.size(); ++i) rows[i] = rows_.row(i);
    const std::span<const double> errors = scores_.of(samples, std::span(rows).first(samples.size()));
    for (size_t i = 0; i < samples.size(); ++i) {
        Witness& w = witnesses[i];
        w = {};
        w.layer = first.layer_index;
        w.head = first.head;
        w.row_sum = static_cast<float>(row_sums.sum[i]);
        w.fingerprint = row_sums.fingerprint[i];
        compare(samples[i], {sums_.sum(i), sums_.magnitude(i), static_cast<double>(sums_.largest[i]), errors[i]}, w);
        half_sums_.look_again(samples[i], {rows_.row(i), static_cast<size_t>(first.n_cells)}, w);
    }
}

void Prover::operator()(std::span<const capture::HeadSample> samples, std::span<Witness> witnesses) {
    const auto alone = [&] {
        std::transform(samples.begin(), samples.end(), witnesses.begin(),
                       [&](const capture::HeadSample& s) { return witness_head(s, half_sums_); });
    };
    if (samples.size() < 2 || samples.size() > capture::max_proofs_together) return alone();
    const capture::HeadSample& first = samples.front();
    const bool together =
        std::all_of(samples.begin(), samples.end(), [&](const capture::HeadSample& s) { return same_head(s, first); });
    if (!together || !attention::values_readable(values_of(first))) return alone();
    positions_.clear();
    if (first.layer->by_distance()) {
        positions_.assign(first.positions.begin(), first.positions.end());
        positions_.resize(size_t(first.n_cells), 0); // of cells that nothing was written to
    }
    const Result<attention::RowsPlan> plan = attention::plan_layer(*first.layer, first.batched);
    const auto can_compute = [&](const capture::HeadSample& s) { return computable(s, positions_); };
    if (!plan || !std::all_of(samples.begin(), samples.end(), can_compute)) return alone();
    prove_together(samples, *plan, witnesses);
}

} // namespace attnscope::capture
