#include "capture/graph/attention_graph.h"
#include "capture/graph/cells.h"

#include <ggml-cpp.h>
#include <gtest/gtest.h>

#include <cmath>

using namespace attnscope;
using namespace attnscope::capture;

namespace {

struct Graph {
    ggml_context_ptr ctx{ggml_init({size_t(4) << 20, nullptr, true})};
    ggml_cgraph* graph = ggml_new_graph(ctx.get());
    ggml_context* c() { return ctx.get(); }
};

// K as llama.cpp views it: (head_dim, n_kv, n_head_kv) of a cache tensor.
ggml_tensor* keys(Graph& g, const char* name) {
    ggml_tensor* cache = ggml_new_tensor_2d(g.c(), GGML_TYPE_F16, 64, 32);
    ggml_set_name(cache, name);
    ggml_tensor* view = ggml_view_4d(g.c(), cache, 32, 2, 32, 1, ggml_row_size(GGML_TYPE_F16, 32),
                                     ggml_row_size(GGML_TYPE_F16, 64), ggml_row_size(GGML_TYPE_F16, 64) * 32, 0);
    return ggml_permute(g.c(), view, 0, 2, 1, 3);
}

ggml_tensor* queries(Graph& g) {
    ggml_tensor* q = ggml_new_tensor_3d(g.c(), GGML_TYPE_F32, 32, 4, 3);
    return ggml_permute(g.c(), ggml_scale(g.c(), q, 1.0f), 0, 2, 1, 3);
}

} // namespace

TEST(AttentionGraph, FlashAttentionIsFoundWithItsScaleSoftcapAndLayer) {
    Graph g;
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F16, 32, 3);
    ggml_tensor* k = keys(g, "cache_k_l7");
    ggml_tensor* v = keys(g, "cache_v_l7");
    ggml_tensor* out = ggml_flash_attn_ext(g.c(), queries(g), k, v, mask, 0.25f, 0.0f, 30.0f);
    ggml_build_forward_expand(g.graph, out);
    const GraphAttention found = find_attention(g.graph);
    ASSERT_EQ(found.nodes.size(), 1u);
    const AttentionNode& n = found.nodes[0];
    EXPECT_TRUE(n.refusal.empty()) << n.refusal;
    EXPECT_TRUE(n.flash);
    EXPECT_EQ(n.layer, 7);
    EXPECT_FLOAT_EQ(n.scale, 0.25f);
    EXPECT_FLOAT_EQ(n.softcap, 30.0f);
    EXPECT_EQ(found.n_query, 3);
}

TEST(AttentionGraph, SoftcapIsReadFromTheChainBeforeTheSoftMax) {
    Graph g;
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 32, 3);
    ggml_tensor* kq = ggml_mul_mat(g.c(), keys(g, "cache_k_l2"), queries(g));
    kq = ggml_scale(g.c(), kq, 1.0f / 50.0f);
    kq = ggml_scale(g.c(), ggml_tanh(g.c(), kq), 50.0f);
    ggml_tensor* p = ggml_soft_max_ext(g.c(), kq, mask, 0.5f, 0.0f);
    ggml_set_name(p, "kq_soft_max-2");
    ggml_tensor* v = ggml_new_tensor_3d(g.c(), GGML_TYPE_F16, 32, 32, 2);
    ggml_build_forward_expand(g.graph, ggml_mul_mat(g.c(), v, p));
    const GraphAttention found = find_attention(g.graph);
    ASSERT_EQ(found.nodes.size(), 1u);
    const AttentionNode& n = found.nodes[0];
    EXPECT_TRUE(n.refusal.empty()) << n.refusal;
    EXPECT_FALSE(n.flash);
    EXPECT_NEAR(n.softcap, 50.0f, 1e-5f);
    EXPECT_NEAR(n.scale, 1.0f, 1e-6f); // softcap * tanh(dot * scale / softcap)
    EXPECT_FLOAT_EQ(n.post_scale, 0.5f);
    EXPECT_EQ(n.layer, 2);
    EXPECT_EQ(n.v, v);
}

TEST(AttentionGraph, ABiasOnTheScoresIsRefusedInWords) {
    Graph g;
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 32, 3);
    ggml_tensor* kq = ggml_mul_mat(g.c(), keys(g, "cache_k_l0"), queries(g));
    kq = ggml_add(g.c(), kq, ggml_new_tensor_3d(g.c(), GGML_TYPE_F32, 32, 3, 4));
    ggml_tensor* p = ggml_soft_max_ext(g.c(), kq, mask, 1.0f, 0.0f);
    ggml_set_name(p, "kq_soft_max-0");
    ggml_build_forward_expand(g.graph, ggml_mul_mat(g.c(), ggml_new_tensor_3d(g.c(), GGML_TYPE_F16, 32, 32, 2), p));
    const GraphAttention found = find_attention(g.graph);
    ASSERT_EQ(found.nodes.size(), 1u);
    EXPECT_NE(found.nodes[0].refusal.find("bias"), std::string::npos);
}

TEST(AttentionGraph, ASoftMaxWithoutMaskIsNoAttention) {
    Graph g;
    ggml_tensor* logits = ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 8, 3); // expert routing
    ggml_build_forward_expand(g.graph, ggml_soft_max(g.c(), logits));
    EXPECT_TRUE(find_attention(g.graph).nodes.empty());
}

TEST(AttentionGraph, AMaskThatAnOlderEngineConvertsIsTheOneItWasGiven) {
    Graph g;
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 32, 3);
    ggml_tensor* out = ggml_flash_attn_ext(g.c(), queries(g), keys(g, "cache_k_l0"), keys(g, "cache_v_l0"),
                                           ggml_cast(g.c(), mask, GGML_TYPE_F16), 1.0f, 0.0f, 0.0f);
    ggml_build_forward_expand(g.graph, out);
    const GraphAttention found = find_attention(g.graph);
    ASSERT_EQ(found.nodes.size(), 1u);
    EXPECT_EQ(found.nodes[0].refusal, "");
    EXPECT_EQ(found.nodes[0].mask, mask);
}

TEST(AttentionGraph, NodesThatDoNotRunAreNoAttention) {
    Graph g;
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F16, 32, 3);
    ggml_tensor *q = queries(g), *k = keys(g, "cache_k_l0"), *v = keys(g, "cache_v_l0");
    ggml_tensor* runs = ggml_flash_attn_ext(g.c(), q, k, v, mask, 0.5f, 0.0f, 0.0f);
    ggml_tensor* rests = ggml_flash_attn_ext(g.c(), q, k, v, mask, 0.25f, 0.0f, 0.0f);
    ggml_build_forward_expand(g.graph, runs);
    ggml_build_forward_expand(g.graph, rests);
    rests->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
    ASSERT_EQ(find_attention(g.graph).nodes.size(), 1u);
    EXPECT_FLOAT_EQ(find_attention(g.graph).nodes[0].scale, 0.5f);
    // An engine older than the flag sets it nowhere.
    for (int i = 0; i < ggml_graph_n_nodes(g.graph); ++i) ggml_graph_node(g.graph, i)->flags = 0;
    EXPECT_EQ(find_attention(g.graph).nodes.size(), 2u);
}

TEST(AttentionGraph, KeysAreStoredByTheFirstLayerThatReadsThem) {
    Graph g;
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F16, 32, 3);
    ggml_tensor* cells = ggml_new_tensor_1d(g.c(), GGML_TYPE_I64, 3);
    ggml_tensor *k = keys(g, "cache_k_l0"), *v = keys(g, "cache_v_l0");
    for (ggml_tensor* cache : {owner(k), owner(v)}) {
        ggml_build_forward_expand(g.graph,
                                  ggml_set_rows(g.c(), cache, ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 64, 3), cells));
    }
    for (int layer = 0; layer < 2; ++layer) {
        ggml_build_forward_expand(g.graph, ggml_flash_attn_ext(g.c(), queries(g), k, v, mask, 1.0f, 0.0f, 0.0f));
    }
    const GraphAttention found = find_attention(g.graph);
    ASSERT_EQ(found.nodes.size(), 2u);
    EXPECT_EQ(found.nodes[0].k_cells, cells);
    EXPECT_NE(found.nodes[0].v_new, nullptr);
    EXPECT_EQ(found.nodes[1].refusal, "");
    EXPECT_EQ(found.nodes[1].k_cells, nullptr);
    EXPECT_EQ(found.nodes[1].k_new, nullptr);
}

TEST(AttentionGraph, ValuesThatAreTransposedForTheKernelAreReadWhereTheyLie) {
    Graph g; // multi-head latent attention without flash attention
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 32, 3);
    ggml_tensor* k = keys(g, "cache_k_l0");
    ggml_tensor* v =
        ggml_permute(g.c(), ggml_view_4d(g.c(), owner(k), 16, 2, 32, 1, 64, 128, size_t(128) * 32, 0), 0, 2, 1, 3);
    ggml_tensor* p = ggml_soft_max_ext(g.c(), ggml_mul_mat(g.c(), k, queries(g)), mask, 1.0f, 0.0f);
    ggml_tensor* transposed = ggml_transpose(g.c(), v);
    ggml_build_forward_expand(g.graph, ggml_mul_mat(g.c(), ggml_cont(g.c(), transposed), p));
    const GraphAttention found = find_attention(g.graph);
    ASSERT_EQ(found.nodes.size(), 1u);
    EXPECT_EQ(found.nodes[0].refusal, "");
    EXPECT_EQ(found.nodes[0].v, transposed);
}

TEST(AttentionGraph, HeadsThatAreNoWholeBlocksAreRefusedWithAdvice) {
    Graph g;
    ggml_tensor* mask = ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 32, 3);
    ggml_tensor* cache = ggml_new_tensor_2d(g.c(), GGML_TYPE_Q8_0, 160, 32);
    const size_t row = ggml_row_size(GGML_TYPE_Q8_0, 160);
    ggml_tensor* k =
        ggml_permute(g.c(), ggml_view_4d(g.c(), cache, 80, 2, 32, 1, row / 2, row, row * 32, 0), 0, 2, 1, 3);
    ggml_tensor* q =
        ggml_permute(g.c(), ggml_scale(g.c(), ggml_new_tensor_3d(g.c(), GGML_TYPE_F32, 80, 4, 3), 1.0f), 0, 2, 1, 3);
    ggml_tensor* p = ggml_soft_max_ext(g.c(), ggml_mul_mat(g.c(), k, q), mask, 1.0f, 0.0f);
    ggml_build_forward_expand(g.graph, ggml_mul_mat(g.c(), ggml_new_tensor_3d(g.c(), GGML_TYPE_F16, 32, 80, 2), p));
    const GraphAttention found = find_attention(g.graph);
    ASSERT_EQ(found.nodes.size(), 1u);
    EXPECT_NE(found.nodes[0].refusal.find("-ctk f16"), std::string::npos) << found.nodes[0].refusal;
}

TEST(AttentionGraph, LayerNumbersComeFromBothKindsOfNames) {
    EXPECT_EQ(layer_from_name("kq_soft_max-12"), 12);
    EXPECT_EQ(layer_from_name("cache_k_l3"), 3);
    EXPECT_EQ(layer_from_name("cache_k_l3 (view)"), 3);
    EXPECT_EQ(layer_from_name("result_norm"), -1);
    EXPECT_EQ(layer_from_name(""), -1);
}

TEST(Cells, AWrappedRingBecomesSortedColumns) {
    // 4 cells, 6 tokens: cells 0 and 1 hold tokens 4 and 5.
    CellMap map;
    for (int64_t t = 0; t < 6; ++t) map.assign(t % 4, t, int32_t(t));
    int64_t unknown = 0;
    const Range all[] = {{0, 4}};
    EXPECT_EQ(map.columns_of(all, &unknown), (Ranges{{2, 6}}));
    EXPECT_EQ(unknown, 0);
    const Range beyond[] = {{0, 6}};
    (void)map.columns_of(beyond, &unknown);
    EXPECT_EQ(unknown, 2); // padding cells that hold nothing must be noticed, not shown
}

TEST(Cells, MasksOfBothTypesGiveTheSameRanges) {
    Graph g;
    const float inf = INFINITY;
    const std::vector<float> row{-inf, 0, 0, -inf, -1.5f, -inf};
    ggml_tensor* f32 = ggml_new_tensor_2d(g.c(), GGML_TYPE_F32, 6, 1);
    ggml_tensor* f16 = ggml_new_tensor_2d(g.c(), GGML_TYPE_F16, 6, 1);
    std::vector<ggml_fp16_t> half(6);
    ggml_fp32_to_fp16_row(row.data(), half.data(), 6);
    const Ranges expected{{1, 3}, {4, 5}};
    EXPECT_EQ(visible_cells(f32, reinterpret_cast<const uint8_t*>(row.data()), 0), expected);
    EXPECT_EQ(visible_cells(f16, reinterpret_cast<const uint8_t*>(half.data()), 0), expected);
}
