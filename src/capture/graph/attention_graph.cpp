#include "capture/graph/attention_graph.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace attnscope::capture {

namespace {

float float_param(const ggml_tensor* t, int i) {
    float value = 0;
    std::memcpy(&value, t->op_params + i, sizeof value);
    return value;
}

bool is_marked(const ggml_tensor* t) {
    return (t->flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
}

bool is_tanh(const ggml_tensor* t) {
    return t->op == GGML_OP_UNARY && ggml_get_unary_op(t) == GGML_UNARY_OP_TANH;
}

// Walks from the soft-max back to MUL_MAT(K, Q), noting what was done to the scores on the way.
void read_scores(AttentionNode& n) {
    ggml_tensor* t = n.op->src[0];
    if (t->op == GGML_OP_ADD) {
        n.refusal = "a learned bias is added to the scores (relative positions), which Q and K alone do not give";
        return;
    }
    if (t->op == GGML_OP_SCALE && t->src[0] && is_tanh(t->src[0])) {
        // softcap: scale(1/cap) -> tanh -> scale(cap); Grok folds its output multiplier into the first scale
        const ggml_tensor* tanh = t->src[0];
        const ggml_tensor* inner = tanh->src[0];
        n.softcap = float_param(t, 0);
        if (inner && inner->op == GGML_OP_SCALE) {
            n.scale = float_param(inner, 0) * n.softcap;
            t = inner->src[0];
        } else {
            n.scale = n.softcap;
            t = tanh->src[0];
        }
    }
    if (!t || t->op != GGML_OP_MUL_MAT) {
        n.refusal = "the scores are not a plain product of keys and queries";
        return;
    }
    n.scores = t;
}

// A copy that the engine makes for a kernel only, in scratch memory: contiguous, or of another type.
bool is_scratch_copy(const ggml_tensor* t) {
    return t && !t->view_src && (t->op == GGML_OP_CONT || t->op == GGML_OP_CPY) && t->src[0] &&
           ggml_are_same_shape(t, t->src[0]);
}

// A tensor that no graph computes: a cache, an input, a weight.
bool is_leaf(const ggml_tensor* t) {
    return t && t->op == GGML_OP_NONE;
}

std::string refusal_of_keys(const AttentionNode& n) {
    const ggml_tensor* k = n.k;
    if (owner(n.k)->op == GGML_OP_CPY && n.flash && owner(n.k)->src[0]->type == GGML_TYPE_F32 &&
        is_leaf(owner(owner(n.k)->src[0]))) {
        return "with flash attention llama.cpp converts an f32 cache to f16 for each token (use -ctk f16, or -fa off)";
    }
    if (!k->view_src || !is_leaf(k->view_src)) return "the keys do not come from a KV cache";
    if (n.q->ne[2] % k->ne[2] != 0 || n.q->ne[0] != k->ne[0]) return "query and key heads do not fit together";
    if (k->ne[0] % ggml_blck_size(k->type) != 0) {
        return "its heads of " + std::to_string(k->ne[0]) + " elements are no multiple of the blocks of " +
               std::to_string(ggml_blck_size(k->type)) + " of a " + ggml_type_name(k->type) + " cache (use -ctk f16)";
    }
    if (k->nb[0] != ggml_type_size(k->type) || k->nb[2] != ggml_row_size(k->type, k->ne[0]) || k->view_offs != 0) {
        return "the keys do not lie in the cache as expected";
    }
    return {};
}

std::string refusal_of_mask(const AttentionNode& n) {
    const ggml_tensor* m = n.mask;
    if (!m) return "there is no mask to tell who sees whom";
    if ((m->type != GGML_TYPE_F16 && m->type != GGML_TYPE_F32) || m->nb[0] != ggml_type_size(m->type)) {
        return "its mask is of an unknown type";
    }
    if (m->ne[0] != n.k->ne[1] || m->ne[1] < n.q->ne[1]) return "its mask does not fit its keys and queries";
    if (m->ne[2] != 1 || m->ne[3] != 1) return "its heads have masks of their own";
    return {};
}

std::string refusal_of_values(const AttentionNode& n) {
    if (!n.out || !n.v) return "what the model makes of the weights was not found in the graph";
    const ggml_tensor *v = n.v, *out = n.out;
    if (!is_leaf(owner(n.v))) return "the values do not come from a KV cache";
    if (v->type != n.v_used && !(v->type == GGML_TYPE_F32 && n.v_used == GGML_TYPE_F16)) {
        return "its values are converted in an unknown way";
    }
    const int64_t cells = n.flash ? v->ne[1] : v->ne[0], dim = n.flash ? v->ne[0] : v->ne[1];
    const int64_t out_heads = n.flash ? out->ne[1] : out->ne[2], out_tokens = n.flash ? out->ne[2] : out->ne[1];
    if (cells != n.k->ne[1] || v->ne[2] != n.k->ne[2] || v->ne[3] != 1 || out->ne[0] != dim ||
        out_heads != n.q->ne[2] || out_tokens != n.q->ne[1]) {
        return "its values do not fit its keys and queries";
    }
    if (out->type != GGML_TYPE_F32 || out->nb[0] != sizeof(float))
        return "its output does not lie in memory as expected";
    // Elements of blocks have no address of their own.
    const int64_t block = ggml_blck_size(v->type);
    if (block > 1 && (!n.flash || dim % block != 0 || v->nb[0] != ggml_type_size(v->type))) {
        return std::string("its values of type ") + ggml_type_name(v->type) + " do not lie in the cache as expected";
    }
    return {};
}

void read_geometry(AttentionNode& n) {
    if (!n.refusal.empty()) return;
    if (n.q->ne[3] != 1 || n.k->ne[3] != 1) {
        n.refusal = "several sequences are computed side by side (use one sequence, or a unified KV cache)";
        return;
    }
    if (n.q->type != GGML_TYPE_F32 || n.q->nb[0] != sizeof(float)) {
        n.refusal = "its queries do not lie in memory as expected";
        return;
    }
    // An engine older than flash attention's demand for f16 masks converts the mask that it was given.
    if (is_scratch_copy(n.mask) && is_leaf(n.mask->src[0])) n.mask = n.mask->src[0];
    n.refusal = refusal_of_keys(n);
    if (n.refusal.empty()) n.refusal = refusal_of_mask(n);
    if (n.refusal.empty() && n.sinks && (n.sinks->type != GGML_TYPE_F32 || n.sinks->ne[0] != n.q->ne[2])) {
        n.refusal = "its learned sinks do not fit its heads";
    }
}

// What the graph stores into the caches, in order.
struct Store {
    int index = -1;
    ggml_tensor* node = nullptr; // SET_ROWS
    bool taken = false;          // by the layer that stores it; whoever reads the same cache later borrows it
};
using Stores = std::unordered_map<const ggml_tensor*, std::vector<Store>>; // by the tensor that owns the cache

// The store whose keys or values the attention at `index` reads.
Store* store_of(Stores& stores, const ggml_tensor* cache, int index) {
    const auto found = stores.find(cache);
    if (found == stores.end()) return nullptr;
    Store* last = nullptr;
    for (Store& s : found->second) {
        if (s.index < index) last = &s;
    }
    return last;
}

void read_stores(AttentionNode& n, Stores& stores) {
    if (!n.refusal.empty()) return;
    Store* k = store_of(stores, n.k_cache, n.index);
    if (k && k != &stores[n.k_cache].back()) {
        n.refusal = "its keys are overwritten by a later layer of the same graph";
        return;
    }
    if (!k || k->taken) return;
    k->taken = true;
    n.k_new = k->node->src[0];
    n.k_cells = k->node->src[1];
    if (!is_cells(n.k_cells, n.q->ne[1])) n.refusal = "where its keys are stored is not known";
    if (owner(n.v) == n.k_cache) return;
    if (const Store* v = store_of(stores, owner(n.v), n.index)) n.v_new = v->node->src[0];
}

} // namespace

ggml_tensor* owner(ggml_tensor* t) {
    return t && t->view_src ? t->view_src : t;
}

bool is_positions(const ggml_tensor* t) {
    return is_leaf(t) && t->type == GGML_TYPE_I32 && ggml_is_contiguous(t);
}

bool is_cells(const ggml_tensor* t, int64_t n_query) {
    return is_leaf(t) && t->type == GGML_TYPE_I64 && ggml_is_contiguous(t) && t->ne[0] == n_query;
}

AttentionNode from_flash_attention(ggml_tensor* t) {
    AttentionNode n;
    n.flash = true;
    n.op = n.out = t;
    n.q = t->src[0], n.k = t->src[1], n.v = t->src[2], n.mask = t->src[3], n.sinks = t->src[4];
    n.scale = float_param(t, 0);
    n.max_bias = float_param(t, 1);
    n.softcap = float_param(t, 2);
    n.v_used = n.v->type;
    if (is_scratch_copy(n.v)) n.v = n.v->src[0];
    n.k_cache = owner(n.k);
    read_geometry(n);
    if (n.refusal.empty()) n.refusal = refusal_of_values(n);
    return n;
}

AttentionNode from_soft_max(ggml_tensor* t) {
    AttentionNode n;
    n.op = t;
    n.mask = t->src[1], n.sinks = t->src[2];
    n.post_scale = float_param(t, 0);
    n.max_bias = float_param(t, 1);
    n.layer = layer_from_name(t->name);
    read_scores(n);
    if (n.scores) {
        n.k = n.scores->src[0], n.q = n.scores->src[1];
        n.k_cache = owner(n.k);
        read_geometry(n);
    }
    return n;
}

void read_weighted_sum(AttentionNode& n, ggml_tensor* product) {
    n.out = product;
    n.v = product->src[0];
    n.v_used = n.v->type;
    // Where V lies as K does it is transposed for the kernel (multi-head latent attention: V is a part of K).
    if (is_scratch_copy(n.v)) n.v = n.v->src[0];
    if (n.refusal.empty()) n.refusal = refusal_of_values(n);
}

int layer_from_name(const char* name) {
    const char* dash = std::strrchr(name, '-');
    const char* digits = dash ? dash + 1 : nullptr;
    if (!digits || *digits < '0' || *digits > '9') {
        const char* l = std::strrchr(name, 'l');
        digits = l && l > name && l[-1] == '_' ? l + 1 : nullptr;
    }
    if (!digits || *digits < '0' || *digits > '9') return -1;
    return std::atoi(digits);
}

GraphAttention find_attention(ggml_cgraph* graph) {
    GraphAttention found;
    const int n_nodes = ggml_graph_n_nodes(graph);
    ggml_tensor** nodes = ggml_graph_nodes(graph);
    Stores stores;
    std::unordered_map<const ggml_tensor*, int> index_of;       // MUL_MAT nodes, to know where the scores are made
    std::unordered_map<const ggml_tensor*, size_t> soft_max_of; // SOFT_MAX -> place in found.nodes
    // Nodes that lie in the graph and are not marked do not run, where the engine marks any.
    const bool marked = std::any_of(nodes, nodes + n_nodes, is_marked);
    for (int i = 0; i < n_nodes; ++i) {
        ggml_tensor* t = nodes[i];
        if (marked && !is_marked(t)) continue;
        switch (t->op) {
        case GGML_OP_SET_ROWS: stores[owner(t)].push_back({i, t}); break;
        case GGML_OP_ROPE:
            if (!found.positions && is_positions(t->src[1])) found.positions = t->src[1];
            break;
        case GGML_OP_MUL_MAT: {
            index_of[t] = i;
            const auto at = soft_max_of.find(t->src[1]);
            if (at != soft_max_of.end()) read_weighted_sum(found.nodes[at->second], t);
            break;
        }
        case GGML_OP_FLASH_ATTN_EXT: {
            AttentionNode n = from_flash_attention(t);
            n.index = i;
            found.nodes.push_back(n);
            break;
        }
        case GGML_OP_SOFT_MAX: {
            if (!t->src[1]) break; // expert routing and the like: no mask, no attention
            AttentionNode n = from_soft_max(t);
            n.index = n.scores && index_of.count(n.scores) ? index_of[n.scores] : i;
            soft_max_of[t] = found.nodes.size();
            found.nodes.push_back(n);
            break;
        }
        default: break;
        }
    }
    for (size_t i = 0; i < found.nodes.size(); ++i) {
        AttentionNode& n = found.nodes[i];
        // With flash attention the name of the layer is on the reshape behind the node ("kqv_out-3").
        for (int j = n.index + 1; n.layer < 0 && j < n_nodes && j < n.index + 12; ++j) {
            if (nodes[j]->src[0] == n.out) n.layer = layer_from_name(nodes[j]->name);
        }
        if (n.layer < 0 && n.k_cache) n.layer = layer_from_name(n.k_cache->name);
        if (n.layer < 0) n.layer = static_cast<int>(i);
        if (n.refusal.empty()) n.refusal = refusal_of_values(n);
        read_stores(n, stores);
        if (n.q) found.n_query = n.q->ne[1];
    }
    if (found.positions && found.positions->ne[0] < found.n_query) found.positions = nullptr;
    return found;
}

} // namespace attnscope::capture
