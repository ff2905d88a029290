#include "capture/graph/attention_graph.h"

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

bool is_tanh(const ggml_tensor* t) { return t->op == GGML_OP_UNARY && ggml_get_unary_op(t) == GGML_UNARY_OP_TANH; }

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

void read_geometry(AttentionNode& n) {
    if (!n.refusal.empty()) return;
    if (n.q->ne[3] != 1 || n.k->ne[3] != 1) {
        n.refusal = "several sequences are computed side by side (use one sequence, or a unified KV cache)";
    } else if (owner(n.k)->op == GGML_OP_CPY && n.flash) {
        n.refusal = "with flash attention llama.cpp converts an f32 cache to f16 for each token (use -ctk f16, or -fa off)";
    } else if (!n.k->view_src || n.k->view_src->op != GGML_OP_NONE) {
        n.refusal = "the keys do not come from a KV cache";
    } else if (!n.mask) {
        n.refusal = "there is no mask to tell who sees whom";
    } else if (n.mask->op != GGML_OP_NONE) {
        n.refusal = "the mask is computed inside the graph (sparse attention)";
    } else if (n.q->ne[2] % n.k->ne[2] != 0 || n.q->ne[0] != n.k->ne[0]) {
        n.refusal = "query and key heads do not fit together";
    } else if (n.k->nb[2] != ggml_row_size(n.k->type, n.k->ne[0]) || n.k->view_offs != 0) {
        n.refusal = "the keys do not lie in the cache as expected";
    }
}

} // namespace

ggml_tensor* owner(ggml_tensor* t) { return t && t->view_src ? t->view_src : t; }

AttentionNode from_flash_attention(ggml_tensor* t) {
    AttentionNode n;
    n.flash = true;
    n.op = n.out = t;
    n.q = t->src[0], n.k = t->src[1], n.v = t->src[2], n.mask = t->src[3], n.sinks = t->src[4];
    n.scale = float_param(t, 0);
    n.max_bias = float_param(t, 1);
    n.softcap = float_param(t, 2);
    n.k_cache = owner(n.k);
    read_geometry(n);
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
    std::unordered_map<const ggml_tensor*, ggml_tensor*> stored_by; // cache tensor -> its SET_ROWS
    std::unordered_map<const ggml_tensor*, int> index_of;          // MUL_MAT nodes, to know where the scores are made
    std::unordered_map<const ggml_tensor*, size_t> soft_max_of;    // SOFT_MAX -> place in found.nodes
    for (int i = 0; i < n_nodes; ++i) {
        ggml_tensor* t = nodes[i];
        switch (t->op) {
        case GGML_OP_SET_ROWS:
            stored_by[owner(t)] = t;
            break;
        case GGML_OP_ROPE:
            if (!found.positions && t->src[1] && t->src[1]->op == GGML_OP_NONE) found.positions = t->src[1];
            break;
        case GGML_OP_MUL_MAT: {
            index_of[t] = i;
            const auto at = soft_max_of.find(t->src[1]);
            if (at != soft_max_of.end()) {
                found.nodes[at->second].v = t->src[0];
                found.nodes[at->second].out = t;
            }
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
        if (n.refusal.empty()) {
            if (const auto store = stored_by.find(n.k_cache); store != stored_by.end()) {
                n.k_new = store->second->src[0];
                n.k_cells = store->second->src[1];
            }
            if (const auto store = stored_by.find(owner(n.v)); store != stored_by.end() && owner(n.v) != n.k_cache) {
                n.v_new = store->second->src[0];
            }
            if (!n.out || !n.v) n.refusal = "what the model makes of the weights was not found in the graph";
        }
        if (n.q) found.n_query = n.q->ne[1];
    }
    return found;
}

} // namespace attnscope::capture
