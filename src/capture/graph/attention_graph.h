// Finds attention in a graph that llama.cpp has built. Reads the graph only.
//
// What it relies on in llama.cpp v0.5.0 is listed in docs/engine.md; re-read that list when the pin moves.
#pragma once

#include "capture/graph/ggml_abi.h"

#include <string>
#include <vector>

namespace attnscope::capture {

// One attention: either FLASH_ATTN_EXT, or MUL_MAT(K, Q) -> ... -> SOFT_MAX -> MUL_MAT(V, P).
struct AttentionNode {
    int index = -1; // of the first node that reads Q and K
    bool flash = false;
    ggml_tensor* op = nullptr;     // FLASH_ATTN_EXT or SOFT_MAX
    ggml_tensor* scores = nullptr; // MUL_MAT(K, Q); null with flash attention
    ggml_tensor* q = nullptr;      // view (head_dim, n_query, n_head, n_stream) f32
    ggml_tensor* k = nullptr;      // view (head_dim, n_kv, n_head_kv, n_stream)
    // flash: (head_dim_v, n_kv, n_head_kv); else (n_kv, head_dim_v, n_head_kv); in the cache, whatever copy of it the
    // kernel is given; without a cache that copy
    ggml_tensor* v = nullptr;
    ggml_type v_used = GGML_TYPE_F16; // what the kernel is given: V's own type, or f16 that the engine makes of f32
    ggml_tensor* mask = nullptr;  // (n_kv, n_query, 1, n_stream), f16 or f32; an input, or computed (sparse attention)
    ggml_tensor* sinks = nullptr; // (n_head), or null
    // added to the scores (T5): row `buckets`[i, j] of `bias` (n_head, n_bucket) for cell i and token j; null: nothing is
    ggml_tensor* bias = nullptr;    // a weight
    ggml_tensor* buckets = nullptr; // i32 (n_kv, n_query), an input
    ggml_tensor* out = nullptr;     // flash: (head_dim_v, n_head, n_query); else (head_dim_v, n_query, n_head)
    ggml_tensor* k_cache = nullptr; // owner of K's data
    // No cache (encoders): K and V are tensors of this graph, as the kernel is given them, a column for each of its tokens, in order.
    bool graph_keys = false;
    // Its keys are made of what an encoder left, which the graph is given: a column for each token that the encoder read.
    bool cross = false;
    // i64 (n_query): the cells that this graph's new keys go to; null where another layer stores them
    ggml_tensor* k_cells = nullptr;
    // Engines before July 2025, and forks, store them by a copy (CPY) into cells one behind the other; null: they do not. Some move
    // it to other cells from run to run of one graph.
    ggml_tensor* k_copy = nullptr;
    ggml_tensor* k_new = nullptr; // f32 (n_head_kv * head_dim, n_query): the new keys before they are stored, or null
    ggml_tensor* v_new = nullptr; // f32: the new values before they are stored; null where V is part of K's cache
    // Streams: a cache may hold sequences side by side, each with cells of its own. The graph's tokens then come stream
    // by stream, the same number of each: token i is of stream first_stream + i / ne(q, 1), and cell c of stream s is
    // cell s * stream_cells + c of the cache.
    int64_t n_stream = 1;      // that the graph computes
    int64_t first_stream = 0;  // of the cache's
    int64_t cache_streams = 1; // that the cache has
    int64_t stream_cells = 0;
    int layer = -1;
    float scale = 1, softcap = 0, post_scale = 1, max_bias = 0; // as in LayerInfo
    std::string refusal;                                        // why this attention cannot be captured; empty: it can
};

struct GraphAttention {
    std::vector<AttentionNode> nodes; // in the order in which they run
    ggml_tensor* positions = nullptr; // i32 (n_query or a multiple of it), from RoPE; null where there is none
    int64_t n_query = 0;              // tokens in this graph
};

// Why an attention is refused whose cache on a device holds sequences side by side.
inline constexpr const char* streams_on_device =
    "its cache on a device holds sequences side by side (use a unified KV cache)";

GraphAttention find_attention(ggml_cgraph* graph);

// The same for one node, where the whole graph cannot be seen (cb_eval). `layer` and `k_cells` are left to the caller.
AttentionNode from_flash_attention(ggml_tensor* node);
AttentionNode from_soft_max(ggml_tensor* node);
// Completes the latter with what the weights are multiplied with: MUL_MAT(V, P).
void read_weighted_sum(AttentionNode& node, ggml_tensor* product);
inline int64_t n_tokens(const AttentionNode& n) {
    return ne(n.q, 1) * n.n_stream;
}
// Does this graph store new keys for it?
inline bool stores_keys(const AttentionNode& n) {
    return n.k_cells || n.k_copy;
}
// The first of the cells that a copy stores to, when the graph is about to run or has run.
inline int64_t first_cell(const ggml_tensor* k_copy, const AttentionNode& n) {
    return static_cast<int64_t>(view_offs(k_copy) / nb(n.k, 1));
}
// Is the mask computed by the graph itself?
inline bool mask_is_computed(const AttentionNode& n) {
    return n.mask && op(view_src(n.mask) ? view_src(n.mask) : n.mask) != Op::none;
}
// The tensor that owns the data of a view.
ggml_tensor* owner(ggml_tensor* tensor);

// i32 positions that the graph was given, one a token or several?
bool is_positions(const ggml_tensor* tensor);
// i64 numbers of cells that the graph was given, one for each of `n_query` tokens?
bool is_cells(const ggml_tensor* tensor, int64_t n_query);

// The number behind the last '-' or "_l" of a tensor's name; -1 if there is none.
int layer_from_name(const char* name);

} // namespace attnscope::capture
