// Proofs of tokens that share a head are those of each token alone, and fail for that token alone.
#include "capture/proof/witness.h"

#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

using namespace attnscope;
using namespace attnscope::capture;

namespace {

int32_t pick(std::mt19937& rng, int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(rng);
}

bool is_quantised(DType type) {
    return dtype_block(type) > 1;
}

// Normal numbers as `type` holds them.
std::vector<uint8_t> encode(DType type, size_t n, std::mt19937& rng) {
    std::normal_distribution<float> normal;
    std::vector<float> x(n);
    for (float& v : x) v = normal(rng);
    std::vector<uint8_t> bytes(dtype_row_bytes(type, static_cast<int64_t>(n)));
    if (type == DType::f32)
        std::memcpy(bytes.data(), x.data(), bytes.size());
    else
        ggml_get_type_traits_cpu(static_cast<ggml_type>(type))
            ->from_float(x.data(), bytes.data(), static_cast<int64_t>(n));
    return bytes;
}

float decode(DType type, const uint8_t* at) { // of a floating-point type
    float x = 0;
    if (type == DType::f32)
        std::memcpy(&x, at, sizeof x);
    else
        ggml_get_type_traits(static_cast<ggml_type>(type))->to_float(at, &x, 1);
    return x;
}

struct Shape {
    DType k_type = DType::f16, v_type = DType::f16, q_type = DType::f16;
    int32_t n_head_kv = 2, group = 2, dim = 64, dim_v = 64;
    int64_t n_cells = 200;
    size_t n_tokens = 16;
    bool v_along_dims = true, flash = true, device = false;
};

// Neighbours of a prompt whose proofs share a head, with the output that an exact engine would give.
struct Group {
    LayerInfo layer;
    std::vector<uint8_t> k, v;
    std::vector<std::vector<uint8_t>> q;
    std::vector<std::vector<float>> out;
    std::vector<Ranges> visible;
    std::vector<int64_t> columns;
    std::vector<int32_t> positions;
    std::vector<capture::HeadSample> samples;

    Group(const Shape& s, std::mt19937& rng) {
        layer.n_head_kv = s.n_head_kv;
        layer.n_head = s.n_head_kv * s.group;
        layer.head_dim = s.dim;
        layer.head_dim_v = s.dim_v;
        layer.q_type = s.q_type;
        layer.k_type = s.k_type;
        layer.on_device = s.device;
        layer.scale = 1.0f / std::sqrt(static_cast<float>(s.dim));
        const auto n_cells = static_cast<size_t>(s.n_cells);
        k = encode(s.k_type, n_cells * size_t(s.n_head_kv * s.dim), rng);
        v = encode(s.v_type, n_cells * size_t(s.n_head_kv * s.dim_v), rng);
        for (int64_t j = 0; j < s.n_cells; ++j) {
            columns.push_back(s.n_cells - 1 - j + 7); // cells are no columns
            positions.push_back(static_cast<int32_t>(j));
        }
        const int32_t head = pick(rng, 0, layer.n_head - 1);
        const auto kv = static_cast<size_t>(head / s.group);
        for (size_t t = 0; t < s.n_tokens; ++t) {
            q.push_back(encode(s.q_type, size_t(layer.n_head * s.dim), rng));
            const int64_t end = std::max<int64_t>(1, s.n_cells - static_cast<int64_t>(s.n_tokens - 1 - t));
            const int64_t begin = pick(rng, 0, 1) ? 0 : end / 3;
            if (pick(rng, 0, 3) == 0 && end - begin > 5)
                visible.push_back({{begin, begin + 2}, {begin + 3, end}});
            else
                visible.push_back({{begin, end}});
        }
        for (size_t t = 0; t < s.n_tokens; ++t) {
            capture::HeadSample sample;
            sample.layer = &layer;
            sample.layer_index = 3;
            sample.head = head;
            sample.q = q[t].data();
            sample.k = k.data();
            sample.k_stride = layer.k_bytes();
            sample.n_cells = s.n_cells;
            sample.visible = visible[t];
            sample.positions = positions;
            sample.position = static_cast<int32_t>(visible[t].back().end - 1);
            sample.v_type = sample.v_used = s.v_type;
            const size_t v_row = dtype_row_bytes(s.v_type, s.dim_v);
            const size_t size = is_quantised(s.v_type) ? v_row : dtype_row_bytes(s.v_type, 1);
            sample.v_dim_stride = s.v_along_dims ? size : n_cells * size;
            sample.v_cell_stride = s.v_along_dims ? v_row * size_t(s.n_head_kv) : size;
            sample.v = v.data() + kv * (s.v_along_dims ? v_row : size_t(s.dim_v) * n_cells * size);
            sample.flash = s.flash;
            sample.batched = true;
            sample.device = s.device;
            sample.columns = columns;
            samples.push_back(sample);
        }
    }
    // Sets every output to P.V in float64, of rows as the reader computes them.
    void answer() {
        out.assign(samples.size(), std::vector<float>(size_t(layer.head_dim_v)));
        for (size_t t = 0; t < samples.size(); ++t) {
            capture::HeadSample& s = samples[t];
            std::vector<float> row(size_t(s.n_cells));
            const KeyBlock block{s.k, 0, s.n_cells, s.k_stride};
            RowsRequest r;
            r.layer = &layer;
            r.q = s.q;
            r.keys = {&block, 1};
            r.visible = s.visible;
            r.n_columns = s.n_cells;
            r.position = s.position;
            r.positions = s.positions;
            r.head_begin = s.head;
            r.head_end = s.head + 1;
            r.batched = s.batched;
            ASSERT_TRUE(attention_rows(r, row).ok());
            std::vector<double> sum(size_t(layer.head_dim_v));
            std::vector<float> quantised(size_t(layer.head_dim_v));
            for (size_t j = 0; j < row.size(); ++j) {
                if (row[j] == 0.0f) continue;
                if (is_quantised(s.v_type))
                    ggml_get_type_traits(static_cast<ggml_type>(s.v_type))
                        ->to_float(s.v + j * s.v_cell_stride, quantised.data(), layer.head_dim_v);
                for (size_t d = 0; d < sum.size(); ++d) {
                    const float x = is_quantised(s.v_type)
                                        ? quantised[d]
                                        : decode(s.v_type, s.v + j * s.v_cell_stride + d * s.v_dim_stride);
                    sum[d] += static_cast<double>(row[j]) * static_cast<double>(x);
                }
            }
            for (size_t d = 0; d < sum.size(); ++d) out[t][d] = static_cast<float>(sum[d]);
            s.out = out[t].data();
        }
    }
    std::vector<Witness> together() const {
        Prover prove;
        std::vector<Witness> w(samples.size());
        prove(samples, w);
        return w;
    }
};

bool proven(const Witness& w) {
    return w.error <= w.tolerance;
}

void expect_same(const Witness& a, const Witness& b) {
    EXPECT_EQ(a.layer, b.layer);
    EXPECT_EQ(a.head, b.head);
    EXPECT_EQ(a.row_sum, b.row_sum);
    EXPECT_EQ(a.fingerprint, b.fingerprint); // to the last bit
    EXPECT_NEAR(a.tolerance, b.tolerance, 1e-5f * b.tolerance);
    EXPECT_NEAR(a.error, b.error, 0.5f * b.tolerance); // 1e-5 A of it is for such sums
}

} // namespace

TEST(Prover, ProvesTogetherWhatItProvesAlone) {
    std::mt19937 rng(21);
    constexpr DType k_types[] = {DType::f16, DType::f32, DType::bf16, DType::q8_0};
    constexpr int32_t dims[] = {64, 80, 96, 128, 256};
    for (int i = 0; i < 120; ++i) {
        Shape s;
        s.k_type = k_types[pick(rng, 0, 3)];
        s.v_type = k_types[pick(rng, 0, 3)];
        s.dim = dims[pick(rng, 0, 4)];
        s.dim_v = pick(rng, 0, 2) ? s.dim : dims[pick(rng, 0, 4)];
        if (is_quantised(s.k_type)) s.dim = s.dim / 32 * 32;
        if (is_quantised(s.v_type)) s.dim_v = s.dim_v / 32 * 32;
        s.device = pick(rng, 0, 1);
        s.q_type = s.device && !is_quantised(s.k_type) && pick(rng, 0, 1) ? DType::f32 : s.k_type;
        s.flash = pick(rng, 0, 1);
        s.v_along_dims = is_quantised(s.v_type) || pick(rng, 0, 1);
        s.n_head_kv = pick(rng, 1, 3);
        s.group = pick(rng, 1, 4);
        s.n_tokens = static_cast<size_t>(pick(rng, 1, 16));
        s.n_cells = i % 8 == 0 ? pick(rng, 2000, 3000) : pick(rng, 16, 700);
        Group group(s, rng);
        if (pick(rng, 0, 3) == 0) group.layer.softcap = 15.0f;
        if (pick(rng, 0, 3) == 0) group.layer.max_bias = 8.0f;
        if (pick(rng, 0, 3) == 0) group.layer.sinks.assign(size_t(group.layer.n_head), 0.5f);
        group.answer();
        const std::vector<Witness> together = group.together();
        for (size_t t = 0; t < s.n_tokens; ++t) {
            SCOPED_TRACE(testing::Message()
                         << "K " << dtype_name(s.k_type) << " V " << dtype_name(s.v_type) << " dims " << s.dim << ", "
                         << s.dim_v << ", " << s.n_cells << " cells, token " << t << " of " << s.n_tokens);
            EXPECT_TRUE(proven(together[t])) << together[t].error << " against " << together[t].tolerance;
            HalfSums half_sums;
            expect_same(together[t], witness_head(group.samples[t], half_sums));
        }
    }
}

namespace {

// What an exact engine answers whose kernel multiplies with the query as it is, before it is rounded into the layer's q_type.
std::vector<float> answer_to(const std::vector<float>& q, const HeadSample& s, const uint8_t* k) {
    const auto dim = static_cast<size_t>(s.layer->head_dim), dim_v = static_cast<size_t>(s.layer->head_dim_v);
    const auto to_floats = [](DType type, const uint8_t* from, std::vector<float>& to) {
        ggml_get_type_traits(static_cast<ggml_type>(type))->to_float(from, to.data(), static_cast<int64_t>(to.size()));
    };
    std::vector<double> scores, sum(dim_v);
    std::vector<int64_t> cells;
    std::vector<float> key(dim), value(dim_v);
    for (const Range& r : s.visible) {
        for (int64_t j = r.begin; j < r.end; ++j) {
            to_floats(s.layer->k_type, k + size_t(j) * s.k_stride, key);
            double score = 0;
            for (size_t d = 0; d < dim; ++d) score += double(q[d]) * double(key[d]);
            scores.push_back(score * double(s.layer->scale));
            cells.push_back(j);
        }
    }
    const double largest = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& x : scores) total += x = std::exp(x - largest);
    for (size_t i = 0; i < cells.size(); ++i) {
        to_floats(s.v_type, s.v + size_t(cells[i]) * s.v_cell_stride, value);
        for (size_t d = 0; d < dim_v; ++d) sum[d] += scores[i] / total * double(value[d]);
    }
    return {sum.begin(), sum.end()};
}

} // namespace

// CUDA's kernels round queries to eight bits beside a quantised cache for one or two tokens, and not for more: which one answered
// nobody tells us. Few cells are the hard case: over many the kernels' own sums are given more room.
TEST(Prover, OfAGpuQueriesMayBeRoundedOrNot) {
    std::mt19937 rng(24);
    int n_wrong = 0, n_seen = 0;
    for (const auto& [k_type, q_type] : std::vector<std::pair<DType, DType>>{
             {DType::q8_0, DType::q8_0}, {DType::q4_0, DType::q8_0}, {DType::q5_1, DType::q8_1}}) {
        for (int i = 0; i < 60; ++i) {
            Shape s;
            s.k_type = s.v_type = k_type;
            s.q_type = q_type;
            s.device = true;
            s.n_tokens = i % 2 == 0 ? 1 : 4; // alone, and together
            s.n_cells = pick(rng, 5, i % 3 == 0 ? 200 : 12);
            s.dim = s.dim_v = pick(rng, 0, 1) ? 64 : 128;
            Group group(s, rng);
            group.layer.scale *= static_cast<float>(pick(rng, 1, 4)); // sharper than normal numbers give
            const auto row = dtype_row_bytes(q_type, s.dim);
            const auto kv = size_t(group.samples.front().head / s.group) * dtype_row_bytes(k_type, s.dim);
            const size_t other = kv == 0 ? dtype_row_bytes(k_type, s.dim) : 0; // another head's keys
            std::vector<std::vector<float>> of_others;
            group.out.clear();
            for (HeadSample& sample : group.samples) {
                std::normal_distribution<float> normal;
                std::vector<float> q(static_cast<size_t>(s.dim));
                for (float& x : q) x = normal(rng);
                uint8_t* at = group.q[size_t(&sample - group.samples.data())].data() + size_t(sample.head) * row;
                ggml_get_type_traits_cpu(static_cast<ggml_type>(q_type))->from_float(q.data(), at, s.dim);
                group.out.push_back(answer_to(q, sample, group.k.data() + kv));
                of_others.push_back(answer_to(q, sample, group.k.data() + other));
            }
            for (size_t t = 0; t < s.n_tokens; ++t) group.samples[t].out = group.out[t].data();
            for (const Witness& w : group.together())
                EXPECT_TRUE(proven(w)) << dtype_name(k_type) << ", " << s.n_cells << " cells: " << w.error
                                       << " against " << w.tolerance;
            for (size_t t = 0; t < s.n_tokens; ++t) group.samples[t].out = of_others[t].data();
            for (const Witness& w : group.together()) n_wrong += !proven(w), ++n_seen;
        }
    }
    EXPECT_GT(n_wrong, n_seen * 9 / 10) << n_seen; // and no more room than that
}

TEST(Prover, CorruptDataFailsTheTokenThatUsesItAndNoOther) {
    for (const DType v_type : {DType::f16, DType::f32}) {
        std::mt19937 rng(22);
        Shape s;
        s.v_type = v_type;
        s.flash = false; // the narrowest tolerance
        Group good(s, rng);
        for (size_t t = 0; t < s.n_tokens; ++t) { // every token sees a cell of its own
            good.visible[t] = {{0, 100}, {100 + int64_t(t), 101 + int64_t(t)}};
            good.samples[t].visible = good.visible[t];
        }
        good.layer.scale = 0.02f; // so that no weight is small
        good.answer();
        const size_t size = dtype_row_bytes(v_type, 1);
        for (size_t victim = 0; victim < s.n_tokens; ++victim) {
            const size_t cell = 100 + victim;
            for (int what = 0; what < 5; ++what) {
                Group bad = good;
                for (size_t t = 0; t < s.n_tokens; ++t) {
                    capture::HeadSample& x = bad.samples[t];
                    x.layer = &bad.layer;
                    x.q = bad.q[t].data();
                    x.out = bad.out[t].data();
                    x.visible = bad.visible[t];
                    x.k = bad.k.data();
                    x.v = bad.v.data() + (good.samples[t].v - good.v.data());
                    x.columns = bad.columns;
                    x.positions = bad.positions;
                }
                const auto kv = static_cast<size_t>(bad.samples[0].head / s.group);
                const ggml_fp16_t huge = ggml_fp32_to_fp16(3000.0f), nan = 0x7e00;
                const float large = 3000.0f;
                uint8_t* k = bad.k.data() + cell * bad.layer.k_bytes() + kv * size_t(s.dim) * 2;
                uint8_t* v = bad.v.data() + (good.samples[0].v - good.v.data()) + cell * bad.samples[0].v_cell_stride;
                if (what == 0) std::fill_n(bad.q[victim].begin(), bad.q[victim].size() / 2 * 2, uint8_t{0x50});
                if (what == 1)
                    std::memcpy(k, bad.q[victim].data() + size_t(bad.samples[0].head) * size_t(s.dim) * 2,
                                size_t(s.dim) * 2);
                if (what == 2) std::memcpy(v, v_type == DType::f32 ? static_cast<const void*>(&large) : &huge, size);
                if (what == 3) bad.out[victim][5] += 10.0f;
                if (what == 4) std::memcpy(k, &nan, 2);
                const std::vector<Witness> w = bad.together();
                for (size_t t = 0; t < s.n_tokens; ++t)
                    EXPECT_EQ(proven(w[t]), t != victim) << "token " << t << ", damage " << what << " to " << victim;
            }
        }
    }
}

TEST(Prover, WhatCannotBeProvenTogetherIsProvenAlone) {
    std::mt19937 rng(23);
    Group group(Shape{}, rng), other(Shape{}, rng);
    group.answer();
    other.answer();
    const Range outside{0, group.samples[0].n_cells + 1};
    group.samples[3].visible = {&outside, 1};
    group.samples[5] = other.samples[5]; // another cache, another layer
    const std::vector<Witness> w = group.together();
    for (size_t t = 0; t < w.size(); ++t) EXPECT_EQ(proven(w[t]), t != 3) << t;
    EXPECT_EQ(w[3].error, std::numeric_limits<float>::infinity());
}

TEST(Prover, KeepsNothingOfOneGroupForTheNext) {
    std::mt19937 rng(24);
    Prover prove;
    for (int i = 0; i < 30; ++i) {
        Shape s;
        s.n_cells = pick(rng, 20, 1500);
        s.n_tokens = static_cast<size_t>(pick(rng, 2, 16));
        s.dim = s.dim_v = 16 * pick(rng, 1, 10);
        s.v_along_dims = pick(rng, 0, 1);
        s.device = pick(rng, 0, 1);
        Group group(s, rng);
        group.answer();
        std::vector<Witness> kept(s.n_tokens);
        prove(group.samples, kept);
        const std::vector<Witness> fresh = group.together();
        for (size_t t = 0; t < s.n_tokens; ++t) {
            EXPECT_EQ(kept[t].error, fresh[t].error);
            EXPECT_EQ(kept[t].tolerance, fresh[t].tolerance);
            EXPECT_EQ(kept[t].fingerprint, fresh[t].fingerprint);
        }
    }
}

TEST(Prover, NoColumnsAreThoseOfTheCells) {
    std::mt19937 rng(5);
    for (const size_t n_tokens : {size_t(1), size_t(6)}) {
        Shape s;
        s.n_tokens = n_tokens;
        s.n_cells = 300;
        Group group(s, rng);
        group.answer();
        std::vector<int64_t> numbers(300);
        std::iota(numbers.begin(), numbers.end(), 0);
        for (capture::HeadSample& x : group.samples) x.columns = numbers;
        const std::vector<Witness> told = group.together();
        for (capture::HeadSample& x : group.samples) x.columns = {};
        const std::vector<Witness> understood = group.together();
        for (size_t t = 0; t < n_tokens; ++t) {
            EXPECT_NE(told[t].fingerprint, 0.0);
            expect_same(told[t], understood[t]);
        }
    }
}
