#include "attention/reference.h"

#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace attnscope::test {

namespace {

ggml_type ggml_of(DType type) {
    return static_cast<ggml_type>(type);
}

float half_at(const uint8_t* p) {
    ggml_fp16_t h = 0;
    std::memcpy(&h, p, sizeof(h));
    return ggml_fp16_to_fp32(h);
}

std::vector<double> decode(DType type, const uint8_t* p, int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    if (type == DType::f32) {
        std::memcpy(x.data(), p, x.size() * sizeof(float));
    } else if (type == DType::q8_1) { // a block is (half d, half d * sum, int8 [32]); ggml has no decoder for it
        for (size_t i = 0; i < x.size(); ++i) {
            const uint8_t* block = p + i / 32 * 36;
            x[i] = half_at(block) * static_cast<float>(static_cast<int8_t>(block[4 + i % 32]));
        }
    } else {
        ggml_get_type_traits(ggml_of(type))->to_float(p, x.data(), n);
    }
    return {x.begin(), x.end()};
}

// q4_1 and q5_1 keep a minimum m beside each block, which the engine multiplies with the sum that q8_1 keeps,
// rounded to half precision: part of its arithmetic, and so of ours.
double min_correction(const LayerInfo& layer, const uint8_t* q, const uint8_t* k, const std::vector<double>& qx) {
    if (layer.q_type != DType::q8_1) return 0;
    const size_t k_block = dtype_row_bytes(layer.k_type, 32);
    double sum = 0;
    for (size_t b = 0; b < qx.size() / 32; ++b) {
        double exact = 0;
        for (size_t i = 0; i < 32; ++i) exact += qx[b * 32 + i];
        sum +=
            static_cast<double>(half_at(k + b * k_block + 2)) * (static_cast<double>(half_at(q + b * 36 + 2)) - exact);
    }
    return sum;
}

double slope_of(int h, int n_head, double max_bias) {
    const int n = 1 << static_cast<int>(std::floor(std::log2(n_head)));
    if (h < n) return std::pow(2.0, -max_bias / n * (h + 1));
    return std::pow(2.0, -max_bias / 2 / n * (2 * (h - n) + 1));
}

} // namespace

RowsRequest Sample::request() const {
    RowsRequest r;
    r.layer = &layer;
    r.q = q.data();
    r.keys = blocks;
    r.visible = visible;
    r.n_columns = n_columns();
    r.position = position;
    r.positions = positions;
    r.head_begin = 0;
    r.head_end = layer.n_head;
    return r;
}

void Sample::lay_out(std::mt19937& rng) {
    store.clear();
    blocks.clear();
    const size_t row = layer.k_bytes();
    for (int64_t at = 0; at < n_columns();) {
        const int64_t n = std::min<int64_t>(n_columns() - at, 1 + static_cast<int64_t>(rng() % 40));
        const size_t stride = row + rng() % 70;
        const size_t start = rng() % 9; // not aligned to anything
        std::vector<uint8_t> bytes(start + static_cast<size_t>(n - 1) * stride + row);
        for (int64_t r = 0; r < n; ++r) {
            std::memcpy(bytes.data() + start + static_cast<size_t>(r) * stride,
                        keys[static_cast<size_t>(at + r)].data(), row);
        }
        store.push_back(std::move(bytes));
        blocks.push_back({store.back().data() + start, at, n, stride});
        at += n;
    }
}

DType partner_of(DType k_type) {
    return static_cast<DType>(ggml_get_type_traits_cpu(ggml_of(k_type))->vec_dot_type);
}

std::vector<uint8_t> encode(DType type, const std::vector<float>& x) {
    ggml_cpu_init();
    std::vector<uint8_t> bytes(dtype_row_bytes(type, static_cast<int64_t>(x.size())));
    ggml_get_type_traits_cpu(ggml_of(type))->from_float(x.data(), bytes.data(), static_cast<int64_t>(x.size()));
    return bytes;
}

Sample make_sample(const LayerInfo& layer, int64_t n_columns, std::mt19937& rng) {
    std::normal_distribution<float> normal;
    auto draw = [&](int32_t heads) {
        std::vector<float> x(static_cast<size_t>(heads) * static_cast<size_t>(layer.head_dim));
        for (float& v : x) v = normal(rng);
        return x;
    };
    Sample s;
    s.layer = layer;
    s.q = encode(layer.q_type, draw(layer.n_head));
    std::vector<uint8_t> all;
    for (int64_t c = 0; c < n_columns; ++c) {
        s.keys.push_back(encode(layer.k_type, draw(layer.n_head_kv)));
        all.insert(all.end(), s.keys.back().begin(), s.keys.back().end());
        s.positions.push_back(static_cast<int32_t>(c));
    }
    s.position = static_cast<int32_t>(n_columns) - 1;
    s.store.push_back(std::move(all));
    s.blocks = {{s.store[0].data(), 0, n_columns, layer.k_bytes()}};
    s.visible = {{0, n_columns}};
    return s;
}

ReferenceRows reference_rows(const Sample& s) {
    const LayerInfo& l = s.layer;
    ReferenceRows result;
    result.rows.assign(static_cast<size_t>(l.n_head) * s.keys.size(), 0.0);
    for (int32_t h = 0; h < l.n_head; ++h) {
        double* row = result.rows.data() + static_cast<size_t>(h) * s.keys.size();
        const uint8_t* q = s.q.data() + static_cast<size_t>(h) * dtype_row_bytes(l.q_type, l.head_dim);
        const auto qx = decode(l.q_type, q, l.head_dim);
        double sum = l.sinks.empty() ? 0.0 : std::exp(static_cast<double>(l.sinks[static_cast<size_t>(h)]));
        for (const Range& r : s.visible) {
            for (int64_t c = r.begin; c < r.end; ++c) {
                const uint8_t* k =
                    s.keys[static_cast<size_t>(c)].data() +
                    static_cast<size_t>(h / (l.n_head / l.n_head_kv)) * dtype_row_bytes(l.k_type, l.head_dim);
                const auto kx = decode(l.k_type, k, l.head_dim);
                double dot = min_correction(l, q, k, qx);
                for (size_t i = 0; i < qx.size(); ++i) dot += qx[i] * kx[i];
                const double cap = static_cast<double>(l.softcap);
                double x = dot * static_cast<double>(l.scale);
                if (cap > 0) x = cap * std::tanh(x / cap);
                x *= static_cast<double>(l.post_scale);
                if (l.max_bias > 0) {
                    const double distance =
                        std::abs(static_cast<double>(s.position) - s.positions[static_cast<size_t>(c)]);
                    x -= slope_of(h, l.n_head, static_cast<double>(l.max_bias)) * distance;
                }
                if (!l.bias.empty()) {
                    const int64_t reach = l.bias_reach, far = int64_t{s.positions[static_cast<size_t>(c)]} - s.position;
                    x += static_cast<double>(
                        l.bias[static_cast<size_t>(h * (2 * reach + 1) + reach + std::clamp(far, -reach, reach))]);
                }
                row[c] = std::exp(x);
                sum += row[c];
            }
        }
        for (size_t c = 0; c < s.keys.size(); ++c) row[c] = sum > 0 ? row[c] / sum : 0.0;
        result.lse.push_back(std::log(sum));
    }
    return result;
}

LayerInfo make_layer(DType k_type, int32_t n_head_kv, int32_t group, int32_t head_dim) {
    LayerInfo l;
    l.n_head = n_head_kv * group;
    l.n_head_kv = n_head_kv;
    l.head_dim = head_dim;
    l.k_type = k_type;
    l.q_type = partner_of(k_type);
    l.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    return l;
}

std::vector<const attention::RowKernels*> all_kernels() {
    std::vector<const attention::RowKernels*> all{&attention::scalar_kernels()};
    if (attention::avx2_kernels()) all.push_back(attention::avx2_kernels());
    if (attention::avx512_kernels()) all.push_back(attention::avx512_kernels());
    return all;
}

// Every kernel set must give the reference's rows within 1e-6 and its denominators within float32 rounding;
// what is masked must be exactly 0 whatever the memory held before.
void expect_reference(const Sample& s) {
    const ReferenceRows want = reference_rows(s);
    for (const attention::RowKernels* kernels : all_kernels()) {
        std::vector<float> rows(want.rows.size(), 7.0f);
        std::vector<float> lse(want.lse.size(), 7.0f);
        const auto ok = attention::attention_rows_with(*kernels, s.request(), rows, lse);
        ASSERT_TRUE(ok) << ok.error().message;
        std::vector<bool> seen(s.keys.size());
        for (const Range& r : s.visible) {
            for (int64_t c = r.begin; c < r.end; ++c) seen[static_cast<size_t>(c)] = true;
        }
        for (size_t h = 0; h < want.lse.size(); ++h) {
            double sum = 0;
            double want_sum = 0;
            for (size_t c = 0; c < s.keys.size(); ++c) {
                const size_t i = h * s.keys.size() + c;
                ASSERT_NEAR(static_cast<double>(rows[i]), want.rows[i], 1e-6)
                    << kernels->name << " head " << h << " column " << c;
                if (!seen[c]) {
                    ASSERT_EQ(rows[i], 0.0f);
                }
                sum += static_cast<double>(rows[i]);
                want_sum += want.rows[i];
            }
            EXPECT_NEAR(sum, want_sum, 1e-6);
            if (std::isinf(want.lse[h])) {
                EXPECT_EQ(static_cast<double>(lse[h]), want.lse[h]);
            } else {
                EXPECT_NEAR(static_cast<double>(lse[h]), want.lse[h], 4e-6 + 2e-7 * std::abs(want.lse[h]));
            }
        }
    }
}

Ranges random_ranges(int64_t n, std::mt19937& rng) {
    Ranges ranges;
    int64_t at = static_cast<int64_t>(rng() % 4);
    while (at < n) {
        const int64_t end = std::min(n, at + 1 + static_cast<int64_t>(rng() % 50));
        ranges.push_back({at, end});
        at = end + 1 + static_cast<int64_t>(rng() % 9);
    }
    return ranges;
}

} // namespace attnscope::test
