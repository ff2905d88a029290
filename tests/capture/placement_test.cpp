#include "capture/device/placement.h"
#include "capture/graph/attention_graph.h"

#include <ggml-cpp.h>
#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::capture;

// Back ends fuse operations and skip results that nobody in the graph reads: what we read when it has run is a result of the graph.
TEST(Placement, WhatIsReadWhenTheGraphHasRunIsAResultOfIt) {
    const ggml_context_ptr cache_ctx(ggml_init({size_t(1) << 20, nullptr, true}));
    ggml_tensor* caches[2];
    for (ggml_tensor*& cache : caches) cache = ggml_new_tensor_2d(cache_ctx.get(), GGML_TYPE_F16, 64, 32);
    ggml_set_name(caches[0], "cache_k_l0");
    ggml_set_name(caches[1], "cache_v_l0");
    const ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    const ggml_backend_buffer_ptr memory(ggml_backend_alloc_ctx_tensors(cache_ctx.get(), cpu.get()));
    ASSERT_TRUE(memory);

    const ggml_context_ptr ctx(ggml_init({size_t(4) << 20, nullptr, true}));
    ggml_cgraph* graph = ggml_new_graph(ctx.get());
    const auto heads = [&](ggml_tensor* cache) {
        ggml_tensor* view = ggml_view_4d(ctx.get(), cache, 32, 2, 32, 1, ggml_row_size(GGML_TYPE_F16, 32),
                                         ggml_row_size(GGML_TYPE_F16, 64), ggml_row_size(GGML_TYPE_F16, 64) * 32, 0);
        return ggml_permute(ctx.get(), view, 0, 2, 1, 3);
    };
    ggml_tensor* q = ggml_scale(ctx.get(), ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, 32, 4, 3), 1.0f);
    ggml_tensor* mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, 32, 3);
    ggml_tensor* out = ggml_flash_attn_ext(ctx.get(), ggml_permute(ctx.get(), q, 0, 2, 1, 3), heads(caches[0]),
                                           heads(caches[1]), mask, 0.25f, 0.0f, 0.0f);
    ggml_build_forward_expand(graph, ggml_scale(ctx.get(), out, 2.0f));

    GraphAttention found = find_attention(graph);
    ASSERT_EQ(found.nodes.size(), 1u);
    Placement placement;
    int n_released = 0;
    placement.place(found, [&] { ++n_released; });
    EXPECT_EQ(found.nodes[0].refusal, "");
    EXPECT_EQ(n_released, 1); // there was nothing yet, and nobody need know
    for (ggml_tensor* t : {q, out}) {
        ASSERT_TRUE(placement.placed(t)) << ggml_op_name(t->op);
        EXPECT_TRUE(t->flags & GGML_TENSOR_FLAG_OUTPUT) << ggml_op_name(t->op);
        EXPECT_TRUE(t->buffer && t->data) << ggml_op_name(t->op);
    }
}
