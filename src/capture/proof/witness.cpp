#include "capture/proof/witness.h"

#include "attention/engine_arithmetic.h"
#include "attention/fingerprint.h"
#include "attention/kernels/weigh.h"
#include "capture/proof/tolerance.h"

#include <attnscope/rows.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace attnscope::capture {

namespace {

// One head's V at one cell as floats, contiguous along dim.
void read_v(const capture::HeadSample& s, int64_t cell, int32_t dim, std::vector<float>& out) {
    attention::engine_arithmetic(s.v_type).to_float(s.v + size_t(cell) * s.v_cell_stride, out.data(), dim);
}

// P.V and |P|.|V|.
void weigh(const capture::HeadSample& s, const std::vector<float>& row, int32_t dim, std::vector<double>& sum,
           std::vector<double>& magnitude, double& v_max) {
    const attention::WeighTask task{row.data(), s.visible, s.v, s.v_cell_stride, s.v_dim_stride, s.v_type, dim};
    bool done = false;
    v_max = static_cast<double>(attention::weigh_values(task, sum, magnitude, &done));
    if (done) return;
    std::vector<float> v(static_cast<size_t>(dim)); // quantised V
    for (const Range& r : s.visible) {
        for (int64_t j = r.begin; j < r.end; ++j) {
            const auto p = static_cast<double>(row[size_t(j)]);
            if (p == 0.0) continue;
            read_v(s, j, dim, v);
            for (int32_t d = 0; d < dim; ++d) {
                const double x = p * static_cast<double>(v[size_t(d)]);
                sum[size_t(d)] += x;
                magnitude[size_t(d)] += std::fabs(x);
                v_max = std::max(v_max, std::fabs(static_cast<double>(v[size_t(d)])));
            }
        }
    }
}

} // namespace

Witness witness_head(const capture::HeadSample& s, HalfSums& half_sums) {
    const LayerInfo& layer = *s.layer;
    Witness w;
    w.layer = s.layer_index;
    w.head = s.head;
    w.error = std::numeric_limits<float>::infinity();

    std::vector<float> row(size_t(s.n_cells));
    const KeyBlock keys{s.k, 0, s.n_cells, s.k_stride};
    std::vector<int32_t> positions;
    RowsRequest request;
    request.layer = &layer;
    request.q = s.q;
    request.keys = {&keys, 1};
    request.visible = s.visible;
    request.n_columns = s.n_cells;
    request.position = s.position;
    if (layer.by_distance()) {
        positions.assign(s.positions.begin(), s.positions.end());
        positions.resize(size_t(s.n_cells), 0);
        request.positions = positions;
    }
    request.batched = s.batched;
    request.head_begin = s.head;
    request.head_end = s.head + 1;
    if (!attention_rows(request, row)) return w;

    double row_sum = 0, fingerprint = 0;
    for (const Range& r : s.visible) {
        for (int64_t j = r.begin; j < r.end; ++j) {
            const auto p = static_cast<double>(row[size_t(j)]);
            row_sum += p;
            fingerprint += p * attention::fingerprint_weight(s.column(j));
        }
    }
    w.row_sum = static_cast<float>(row_sum);
    w.fingerprint = fingerprint;

    const auto dim = static_cast<size_t>(layer.head_dim_v);
    std::vector<double> ours(dim, 0.0), magnitude(dim, 0.0);
    double v_max = 0;
    weigh(s, row, layer.head_dim_v, ours, magnitude, v_max);
    ScoreErrors scores;
    const float* const values = row.data();
    compare(s, {ours, magnitude, v_max, scores.of({&s, 1}, {&values, 1}).front()}, w);
    half_sums.look_again(s, row, w);
    return w;
}

} // namespace attnscope::capture
