#include "verify/witness.h"

#include "attention/fingerprint.h"
#include "attention/weigh.h"

#include <attnscope/rows.h>

#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace attnscope::verify {

namespace {

constexpr double half_unit = 0x1.0p-11;

// One head's V at one cell as floats, contiguous along dim.
void read_v(const tap::HeadSample& s, int64_t cell, int32_t dim, std::vector<float>& out) {
    ggml_get_type_traits(static_cast<ggml_type>(s.v_type))->to_float(s.v + size_t(cell) * s.v_cell_stride, out.data(), dim);
}

// P.V and |P|.|V|.
void weigh(const tap::HeadSample& s, const std::vector<float>& row, int32_t dim, std::vector<double>& sum,
           std::vector<double>& magnitude, double& v_max) {
    const WeighTask task{row.data(), s.visible, s.v, s.v_cell_stride, s.v_dim_stride, s.v_type, dim};
    bool done = false;
    v_max = static_cast<double>(weigh_values(task, sum, magnitude, &done));
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

double norm(const std::vector<double>& x) {
    double total = 0;
    for (const double v : x) total += v * v;
    return std::sqrt(total);
}

// How far the kernel's score may lie from ours when it multiplies Q without rounding it (float32) and we keep it
// rounded: the errors of the products are independent, each at most u |q_d k_d|. Only columns with some weight matter.
double score_error(const tap::HeadSample& s, const std::vector<float>& row) {
    constexpr float some = 1e-4f;
    const LayerInfo& layer = *s.layer;
    if (!s.flash || !s.batched || layer.q_type == DType::f32) return 0;
    const auto type = static_cast<ggml_type>(layer.q_type);
    const auto k_type = static_cast<ggml_type>(layer.k_type);
    const size_t q_row = dtype_row_bytes(layer.q_type, layer.head_dim);
    std::vector<float> q(size_t(layer.head_dim)), k(size_t(layer.head_dim));
    ggml_get_type_traits(type)->to_float(s.q + size_t(s.head) * q_row, q.data(), layer.head_dim);
    const int32_t kv = s.head / (layer.n_head / layer.n_head_kv);
    double worst = 0;
    for (const Range& r : s.visible) {
        for (int64_t j = r.begin; j < r.end; ++j) {
            if (row[size_t(j)] < some) continue;
            const uint8_t* at = s.k + size_t(j) * s.k_stride + size_t(kv) * dtype_row_bytes(layer.k_type, layer.head_dim);
            if (k_type == GGML_TYPE_F32) {
                std::memcpy(k.data(), at, k.size() * sizeof(float));
            } else {
                ggml_get_type_traits(k_type)->to_float(at, k.data(), layer.head_dim);
            }
            double total = 0;
            for (size_t d = 0; d < k.size(); ++d) {
                const double x = static_cast<double>(q[d]) * static_cast<double>(k[d]);
                total += x * x;
            }
            worst = std::max(worst, total);
        }
    }
    const double scale = static_cast<double>(std::fabs(layer.scale * layer.post_scale));
    return 4 * half_unit * scale * std::sqrt(worst);
}

} // namespace

Witness witness_head(const tap::HeadSample& s) {
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
    if (layer.max_bias > 0) {
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
            fingerprint += p * fingerprint_weight(s.cells.column(j));
        }
    }
    w.row_sum = static_cast<float>(row_sum);
    w.fingerprint = fingerprint;

    const int32_t dim = layer.head_dim_v;
    std::vector<double> ours(size_t(dim), 0.0), magnitude(size_t(dim), 0.0);
    double v_max = 0;
    weigh(s, row, dim, ours, magnitude, v_max);
    double difference = 0, engine = 0;
    for (int32_t d = 0; d < dim; ++d) {
        const auto theirs = static_cast<double>(s.out[d]);
        difference += (ours[size_t(d)] - theirs) * (ours[size_t(d)] - theirs);
        engine += theirs * theirs;
    }
    const double size = std::max(std::sqrt(engine), 1e-30);
    const double a = norm(magnitude);
    const auto n = static_cast<double>(ranges_count({s.visible.begin(), s.visible.end()}));
    double tolerance = 1e-5 * a; // our own sums over at most 1,024 cells, and float32 ones of the engine
    if (s.v_type == DType::f16) {
        if (s.flash) {
            tolerance += 4 * half_unit * std::sqrt(n) * a;
        } else {
            tolerance += half_unit * a + n * 0x1.0p-25 * v_max * std::sqrt(static_cast<double>(dim));
        }
    }
    tolerance += 2 * score_error(s, row) * a;
    w.error = static_cast<float>(std::sqrt(difference) / size);
    w.tolerance = static_cast<float>(tolerance / size);
    return w;
}

} // namespace attnscope::verify
