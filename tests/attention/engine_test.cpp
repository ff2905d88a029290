// Rows against the engine's own: the same Q and K through ggml's mul_mat and soft_max_ext on the CPU back
// end, the way llama.cpp builds attention without flash attention.
#include "attention/reference.h"

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Free {
    void operator()(ggml_context* p) const { ggml_free(p); }
    void operator()(ggml_backend* p) const { ggml_backend_free(p); }
    void operator()(ggml_backend_buffer* p) const { ggml_backend_buffer_free(p); }
};
template <class T> using Owned = std::unique_ptr<T, Free>;

template <class T> void set(ggml_tensor* tensor, const std::vector<T>& from) {
    ASSERT_EQ(ggml_nbytes(tensor), from.size() * sizeof(T));
    ggml_backend_tensor_set(tensor, from.data(), 0, ggml_nbytes(tensor));
}

// q: (n_head, head_dim) float32, before the conversion that the engine makes. Gives (n_head, n_columns).
std::vector<float> engine_rows(const Sample& s, const std::vector<float>& q, ggml_type mask_type) {
    const LayerInfo& l = s.layer;
    const int64_t n_kv = s.n_columns();
    Owned<ggml_context> ctx(ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    Owned<ggml_backend> cpu(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(cpu.get(), 1);

    ggml_tensor* tq = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, l.head_dim, 1, l.n_head);
    ggml_tensor* cache = ggml_new_tensor_3d(ctx.get(), static_cast<ggml_type>(l.k_type), l.head_dim, l.n_head_kv, n_kv);
    ggml_tensor* mask = ggml_new_tensor_2d(ctx.get(), mask_type, n_kv, 1);
    ggml_tensor* sinks = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, l.n_head);
    ggml_tensor* kq = ggml_mul_mat(ctx.get(), ggml_permute(ctx.get(), cache, 0, 2, 1, 3), tq);
    float scale = l.scale;
    if (l.softcap > 0) { // as build_attn_mha in llama-graph.cpp
        kq = ggml_scale(ctx.get(), kq, l.scale / l.softcap);
        kq = ggml_scale(ctx.get(), ggml_tanh(ctx.get(), kq), l.softcap);
        scale = 1.0f;
    }
    kq = ggml_soft_max_ext(ctx.get(), kq, mask, scale, l.max_bias);
    if (!l.sinks.empty()) ggml_soft_max_add_sinks(kq, sinks);
    ggml_cgraph* graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, kq);
    Owned<ggml_backend_buffer> buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu.get()));

    set(tq, q);
    std::vector<uint8_t> k;
    for (const auto& row : s.keys) k.insert(k.end(), row.begin(), row.end());
    set(cache, k);
    std::vector<float> m(static_cast<size_t>(n_kv), -std::numeric_limits<float>::infinity());
    for (const Range& r : s.visible) {
        for (int64_t c = r.begin; c < r.end; ++c) {
            const auto at = static_cast<size_t>(c);
            m[at] = l.max_bias > 0 ? -static_cast<float>(std::abs(s.position - s.positions[at])) : 0.0f;
        }
    }
    if (mask_type == GGML_TYPE_F16) {
        set(mask, encode(DType::f16, m));
    } else {
        set(mask, m);
    }
    if (!l.sinks.empty()) set(sinks, l.sinks);
    EXPECT_EQ(ggml_backend_graph_compute(cpu.get(), graph), GGML_STATUS_SUCCESS);
    std::vector<float> rows(static_cast<size_t>(n_kv * l.n_head));
    ggml_backend_tensor_get(kq, rows.data(), 0, rows.size() * sizeof(float));
    return rows;
}

void expect_engine(const LayerInfo& layer, int64_t n_columns, uint32_t seed) {
    std::mt19937 rng(seed);
    Sample s = make_sample(layer, n_columns, rng);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    std::vector<float> q(static_cast<size_t>(layer.n_head) * static_cast<size_t>(layer.head_dim));
    for (float& x : q) x = normal(rng);
    s.q = encode(layer.q_type, q);
    s.visible = random_ranges(n_columns, rng);
    const auto want = engine_rows(s, q, seed % 2 ? GGML_TYPE_F16 : GGML_TYPE_F32);
    for (const attention::RowKernels* kernels : all_kernels()) {
        std::vector<float> rows(want.size());
        ASSERT_TRUE(attention::attention_rows_with(*kernels, s.request(), rows));
        for (size_t i = 0; i < rows.size(); ++i) {
            ASSERT_NEAR(static_cast<double>(rows[i]), static_cast<double>(want[i]), 1e-6)
                << kernels->name << " " << dtype_name(layer.k_type) << " at " << i;
        }
    }
}

} // namespace

// The weights of flash attention itself: with values that are the columns' unit vectors its output is its weights.
TEST(EngineRows, TiledFlashAttentionMultipliesFloat32Queries) {
    constexpr int64_t n_query = 64, n_kv = 128, dim = 128, n_head = 4, n_head_kv = 2;
    std::mt19937 rng(23);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    LayerInfo layer = make_layer(DType::f16, n_head_kv, n_head / n_head_kv, dim);
    const Sample s = make_sample(layer, n_kv, rng);
    std::vector<float> q(size_t(n_head * n_query * dim)); // (head, token, dim)
    for (float& x : q) x = normal(rng);
    Owned<ggml_context> ctx(ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    Owned<ggml_backend> cpu(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(cpu.get(), 1);
    ggml_tensor* tq = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, dim, n_query, n_head);
    ggml_tensor* k = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F16, dim, n_head_kv, n_kv);
    ggml_tensor* v = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F16, dim, n_kv, n_head_kv);
    ggml_tensor* mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, n_kv, n_query);
    ggml_tensor* out =
        ggml_flash_attn_ext(ctx.get(), tq, ggml_permute(ctx.get(), k, 0, 2, 1, 3), v, mask, layer.scale, 0, 0);
    ggml_cgraph* graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, out);
    Owned<ggml_backend_buffer> buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu.get()));
    set(tq, q);
    std::vector<uint8_t> keys;
    for (const auto& row : s.keys) keys.insert(keys.end(), row.begin(), row.end());
    set(k, keys);
    std::vector<float> unit(size_t(dim * n_kv * n_head_kv), 0.0f);
    for (int64_t h = 0; h < n_head_kv; ++h)
        for (int64_t c = 0; c < n_kv; ++c) unit[size_t((h * n_kv + c) * dim + c)] = 1;
    set(v, encode(DType::f16, unit));
    set(mask, encode(DType::f16, std::vector<float>(size_t(n_kv * n_query), 0.0f)));
    ASSERT_EQ(ggml_backend_graph_compute(cpu.get(), graph), GGML_STATUS_SUCCESS);
    std::vector<float> theirs(size_t(n_kv * n_head * n_query)); // (token, head, column)
    ggml_backend_tensor_get(out, theirs.data(), 0, theirs.size() * sizeof(float));

    double largest[2] = {0, 0};
    for (const DType type : {DType::f16, DType::f32}) {
        for (int64_t i = 0; i < n_query; ++i) {
            std::vector<float> own;
            for (int64_t h = 0; h < n_head; ++h) {
                const auto from = q.begin() + (h * n_query + i) * dim;
                own.insert(own.end(), from, from + dim);
            }
            layer.q_type = type;
            const std::vector<uint8_t> bytes = encode(type, own);
            RowsRequest r = s.request();
            r.layer = &layer;
            r.q = bytes.data();
            r.batched = true;
            std::vector<float> rows(size_t(n_head * n_kv));
            ASSERT_TRUE(attention_rows(r, rows));
            for (size_t j = 0; j < rows.size(); ++j) {
                const double d = std::fabs(double(rows[j]) - double(theirs[size_t(i * n_head * n_kv) + j]));
                largest[type == DType::f32] = std::max(largest[type == DType::f32], d);
            }
        }
    }
    EXPECT_LE(largest[1], 1e-6);
    EXPECT_GT(largest[0], 1e-5); // what keeping them in half precision would cost
}

TEST(EngineRows, AreOursForEveryTypeOfKey) {
    uint32_t seed = 1;
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                             DType::q5_1, DType::iq4_nl}) {
        for (const int32_t group : {1, 4, 7, 8}) expect_engine(make_layer(type, 2, group, 128), 256, ++seed);
        expect_engine(make_layer(type, 1, 3, 64), 768, ++seed);
    }
}

TEST(EngineRows, AreOursWithAlibi) {
    for (const int32_t heads : {4, 6, 12, 20}) {
        LayerInfo l = make_layer(DType::f16, 2, heads / 2, 64);
        l.max_bias = 8.0f;
        expect_engine(l, 256, static_cast<uint32_t>(heads));
        expect_engine(l, 256, static_cast<uint32_t>(heads + 1));
    }
}

TEST(EngineRows, AreOursWithSinks) {
    LayerInfo l = make_layer(DType::f16, 2, 8, 64);
    for (int32_t h = 0; h < l.n_head; ++h) l.sinks.push_back(static_cast<float>(h) - 4.0f);
    expect_engine(l, 256, 1);
    expect_engine(l, 512, 2);
}

TEST(EngineRows, AreOursWithSoftcap) {
    LayerInfo l = make_layer(DType::f16, 2, 2, 256);
    l.softcap = 50.0f;
    expect_engine(l, 256, 1);
    l.softcap = 5.0f;
    expect_engine(l, 256, 2);
}
