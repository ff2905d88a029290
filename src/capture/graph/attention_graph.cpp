#include "capture/graph/attention_graph.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace attnscope::capture {

namespace {

// A tensor that no graph computes: a cache, an input, a weight.
bool is_leaf(const ggml_tensor* t) {
    return t && op(t) == Op::none;
}

// Has it elements? What a graph has of an operation that it computes.
bool is_there(const ggml_tensor* t) {
    return t && ne(t, 0) > 0 && ne(t, 1) > 0 && ne(t, 2) > 0 && ne(t, 3) > 0;
}
constexpr const char* parts_missing = "its queries, keys or values are missing";

// T5's: CONT(PERMUTE(RESHAPE(GET_ROWS(bias, buckets)))), (n_kv, n_query, n_head).
bool read_bias(AttentionNode& n, const ggml_tensor* t) {
    for (const Op expected : {Op::cont, Op::permute, Op::reshape}) {
        if (!t || op(t) != expected) return false;
        t = src(t, 0);
    }
    if (!t || op(t) != Op::get_rows || !src(t, 1)) return false;
    n.bias = src(t, 0);
    n.buckets = owner(src(t, 1));
    return is_leaf(n.bias) && is_leaf(n.buckets) && type(n.buckets) == GGML_TYPE_I32 && is_contiguous(n.buckets) &&
           is_contiguous(n.bias) && ne(n.bias, 2) == 1 && ne(n.bias, 1) >= 4 && ne(n.bias, 1) <= 256;
}

// Walks from the soft-max back to MUL_MAT(K, Q), noting what was done to the scores on the way.
void read_scores(AttentionNode& n) {
    ggml_tensor* t = src(n.op, 0);
    if (t && op(t) == Op::add) {
        if (!read_bias(n, src(t, 1))) {
            n.refusal = "what is added to its scores is no learned bias by distance (T5), which alone is understood";
            return;
        }
        t = src(t, 0);
    }
    if (t && op(t) == Op::scale && src(t, 0) && is_tanh(src(t, 0))) {
        // softcap: scale(1/cap) -> tanh -> scale(cap); Grok folds its output multiplier into the first scale
        const ggml_tensor* tanh = src(t, 0);
        const ggml_tensor* inner = src(tanh, 0);
        n.softcap = float_param(t, 0);
        if (inner && op(inner) == Op::scale) {
            n.scale = float_param(inner, 0) * n.softcap;
            t = src(inner, 0);
        } else {
            n.scale = n.softcap;
            t = src(tanh, 0);
        }
    }
    if (!t || op(t) != Op::mul_mat || !is_there(src(t, 0)) || !is_there(src(t, 1))) {
        n.refusal = "the scores are not a plain product of keys and queries";
        return;
    }
    n.scores = t;
}

// A copy that the engine makes for a kernel only, in scratch memory: contiguous, or of another type.
bool is_scratch_copy(const ggml_tensor* t) {
    return t && !view_src(t) && (op(t) == Op::cont || op(t) == Op::cpy) && src(t, 0) && same_shape(t, src(t, 0));
}

// ... of what lies in a cache.
bool is_copy_of_cache(const ggml_tensor* t) {
    return is_scratch_copy(t) && is_leaf(owner(src(t, 0)));
}

constexpr const char* no_cache = "the keys do not come from a KV cache";

// Of DeepSeek V4: keys of single tokens, and behind them those of groups of 4 or 128, each of which is one weight.
bool is_compressed(const ggml_tensor* k) {
    return op(k) == Op::other && (std::strncmp(name(k), "csa_", 4) == 0 || std::strncmp(name(k), "hca_", 4) == 0);
}

// Of T5's decoder: keys made of what the encoder left, (n_embd, its tokens).
bool is_made_of_encoder(const ggml_tensor* k) {
    if (is_scratch_copy(k)) k = src(k, 0); // flash attention's, in half precision
    if (view_src(k)) k = view_src(k);
    if (op(k) != Op::mul_mat) return false;
    const ggml_tensor* encoded = src(k, 1);
    return is_leaf(encoded) && std::strcmp(name(encoded), "cross_embd") == 0 &&
           ne(encoded, 1) == nelements(k) / ne(k, 0);
}

std::string refusal_of_graph_keys(const AttentionNode& n) {
    const ggml_tensor* k = n.k;
    if ((ne(k, 1) != ne(n.q, 1) && !n.cross) || ne(k, 3) != 1) return no_cache;
    if (n.cross && n.bias) return "what is added to the scores of its cross attention is no bias by distance";
    if (ne(n.q, 2) % ne(k, 2) != 0 || ne(n.q, 0) != ne(k, 0)) return "query and key heads do not fit together";
    if (ggml().blck_size(type(k)) != 1 || nb(k, 0) != ggml().type_size(type(k)))
        return "its keys do not lie in memory as expected";
    return {};
}

std::string refusal_of_keys(const AttentionNode& n) {
    const ggml_tensor* k = n.k;
    if (op(owner(n.k)) == Op::cpy && n.flash && src(owner(n.k), 0) && type(src(owner(n.k), 0)) == GGML_TYPE_F32 &&
        is_leaf(owner(src(owner(n.k), 0)))) {
        return "with flash attention llama.cpp converts an f32 cache to f16 for each token (use -ctk f16, or -fa off)";
    }
    if (n.graph_keys) return refusal_of_graph_keys(n);
    if (!view_src(k) || !is_leaf(view_src(k))) return no_cache;
    if (ne(n.q, 2) % ne(k, 2) != 0 || ne(n.q, 0) != ne(k, 0)) return "query and key heads do not fit together";
    if (ne(k, 0) % ggml().blck_size(type(k)) != 0) {
        return "its heads of " + std::to_string(ne(k, 0)) + " elements are no multiple of the blocks of " +
               std::to_string(ggml().blck_size(type(k))) + " of a " + ggml().type_name(type(k)) +
               " cache (use -ctk f16)";
    }
    if (nb(k, 0) != ggml().type_size(type(k)) || nb(k, 2) != row_bytes(type(k), ne(k, 0)) ||
        (n.cache_streams == 1 && (view_offs(k) != 0 || n.n_stream != 1))) {
        return "the keys do not lie in the cache as expected";
    }
    return {};
}

// Where a cache has a stream for each sequence: (row, cells, streams).
void read_streams(AttentionNode& n) {
    n.n_stream = ne(n.k, 3);
    const ggml_tensor* cache = n.k_cache;
    const size_t cell = nb(n.k, 1), stream = nb(cache, 2);
    n.stream_cells = static_cast<int64_t>(nbytes(cache) / std::max<size_t>(cell, 1));
    const bool several = stream > 0 && is_leaf(cache) && ne(cache, 2) > 1 && ne(cache, 3) == 1 &&
                         nb(cache, 1) == cell && ne(cache, 1) >= ne(n.k, 1) && stream == size_t(ne(cache, 1)) * cell;
    if (!several || (n.n_stream > 1 && nb(n.k, 3) != stream) || view_offs(n.k) % stream != 0) return;
    n.first_stream = static_cast<int64_t>(view_offs(n.k) / stream);
    if (n.first_stream + n.n_stream > ne(cache, 2)) return;
    n.cache_streams = ne(cache, 2);
    n.stream_cells = ne(cache, 1);
}

std::string refusal_of_mask(const AttentionNode& n) {
    const ggml_tensor* m = n.mask;
    if (!m) return "there is no mask to tell who sees whom";
    if ((type(m) != GGML_TYPE_F16 && type(m) != GGML_TYPE_F32) || nb(m, 0) != ggml().type_size(type(m))) {
        return "its mask is of an unknown type";
    }
    if (ne(m, 0) != ne(n.k, 1) || ne(m, 1) < ne(n.q, 1)) return "its mask does not fit its keys and queries";
    if (ne(m, 2) != 1 || ne(m, 3) != n.n_stream) return "its heads have masks of their own";
    return {};
}

std::string refusal_of_values(const AttentionNode& n) {
    if (!n.out || !n.v) return "what the model makes of the weights was not found in the graph";
    const ggml_tensor *v = n.v, *out = n.out;
    if (is_leaf(owner(n.v)) == n.graph_keys) return "the values do not come from a KV cache";
    if (type(v) != n.v_used && !(type(v) == GGML_TYPE_F32 && n.v_used == GGML_TYPE_F16)) {
        return "its values are converted in an unknown way";
    }
    const int64_t cells = n.flash ? ne(v, 1) : ne(v, 0), dim = n.flash ? ne(v, 0) : ne(v, 1);
    const int64_t out_heads = n.flash ? ne(out, 1) : ne(out, 2), out_tokens = n.flash ? ne(out, 2) : ne(out, 1);
    if (cells != ne(n.k, 1) || ne(v, 2) != ne(n.k, 2) || ne(v, 3) != n.n_stream || ne(out, 3) != n.n_stream ||
        ne(out, 0) != dim || out_heads != ne(n.q, 2) || out_tokens != ne(n.q, 1)) {
        return "its values do not fit its keys and queries";
    }
    if (type(out) != GGML_TYPE_F32 || nb(out, 0) != sizeof(float))
        return "its output does not lie in memory as expected";
    // Elements of blocks have no address of their own.
    const int64_t block = ggml().blck_size(type(v));
    if (block > 1 && !n.flash && !n.graph_keys) {
        return std::string("without flash attention llama.cpp cannot compute with values of type ") +
               ggml().type_name(type(v)) + " (use -ctv f16, or where values are a part of the keys -ctk f16)";
    }
    if (block > 1 && (!n.flash || dim % block != 0 || nb(v, 0) != ggml().type_size(type(v)))) {
        return std::string("its values of type ") + ggml().type_name(type(v)) + " do not lie in the cache as expected";
    }
    return {};
}

void read_geometry(AttentionNode& n) {
    if (!n.refusal.empty()) return;
    if (ne(n.q, 3) != ne(n.k, 3)) {
        n.refusal = "its queries and its keys are of different numbers of sequences";
        return;
    }
    n.graph_keys = !is_leaf(n.k_cache);
    n.cross = n.graph_keys && is_made_of_encoder(n.k);
    if (!n.graph_keys) read_streams(n);
    if (ne(n.k, 3) > 1 && n.cache_streams == 1 && n.mask && mask_is_computed(n)) {
        // MiniMax M3: (head_dim, n_query, group, n_head_kv), and a mask a KV head
        n.refusal =
            "each of its KV heads chooses keys of its own (block-sparse attention): rows have one choice a layer "
            "(with -fa off llama.cpp attends to all keys, which is captured, and is not how it was trained)";
        return;
    }
    if (is_compressed(n.k_cache)) {
        n.refusal = "some of its keys stand for groups of tokens (compressed), and a column is one token";
        return;
    }
    if (type(n.q) != GGML_TYPE_F32 || nb(n.q, 0) != sizeof(float)) {
        n.refusal = "its queries do not lie in memory as expected";
        return;
    }
    // An engine older than flash attention's demand for f16 masks converts the mask that it was given.
    if (is_scratch_copy(n.mask) && is_leaf(src(n.mask, 0))) n.mask = src(n.mask, 0);
    n.refusal = refusal_of_keys(n);
    if (n.refusal.empty()) n.refusal = refusal_of_mask(n);
    if (n.refusal.empty() && n.bias &&
        (ne(n.bias, 0) != ne(n.q, 2) || ne(n.buckets, 0) != ne(n.k, 1) || ne(n.buckets, 1) != ne(n.q, 1))) {
        n.refusal = "its added bias does not fit its heads, keys and queries";
    }
    if (n.refusal.empty() && n.sinks && (type(n.sinks) != GGML_TYPE_F32 || ne(n.sinks, 0) != ne(n.q, 2))) {
        n.refusal = "its learned sinks do not fit its heads";
    }
}

// What the graph stores into the caches, in order.
struct Store {
    int index = -1;
    ggml_tensor* node = nullptr; // SET_ROWS, or CPY into a view of the cache
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

// Does it copy all new keys, a cell each?
bool stores_all(const ggml_tensor* copy, const AttentionNode& n) {
    const size_t cell = nb(n.k, 1), bytes = nbytes(copy);
    return cell > 0 && is_contiguous(copy) && type(copy) == type(n.k) && view_offs(copy) % cell == 0 &&
           n.cache_streams == 1 && bytes == size_t(n_tokens(n)) * cell && view_offs(copy) + bytes <= nbytes(n.k_cache);
}

void read_stores(AttentionNode& n, Stores& stores) {
    if (!n.refusal.empty()) return;
    if (n.graph_keys) {
        // what is made of a cache (compressed keys) is none of this graph's tokens' alone
        if (!stores.empty() && !n.cross) n.refusal = no_cache;
        return;
    }
    Store* k = store_of(stores, n.k_cache, n.index);
    if (k && k != &stores[n.k_cache].back()) {
        n.refusal = "its keys are overwritten by a later layer of the same graph";
        return;
    }
    if (!k || k->taken) return;
    k->taken = true;
    n.k_new = src(k->node, 0);
    if (op(k->node) == Op::cpy) {
        n.k_copy = stores_all(k->node, n) ? k->node : nullptr;
    } else {
        n.k_cells = src(k->node, 1);
        if (!is_cells(n.k_cells, n_tokens(n))) n.k_cells = nullptr;
    }
    if (!stores_keys(n)) n.refusal = "where its keys are stored is not known";
    if (owner(n.v) == n.k_cache) return;
    if (const Store* v = store_of(stores, owner(n.v), n.index)) n.v_new = src(v->node, 0);
}

} // namespace

ggml_tensor* owner(ggml_tensor* t) {
    return t && view_src(t) ? view_src(t) : t;
}

bool is_positions(const ggml_tensor* t) {
    return is_leaf(t) && type(t) == GGML_TYPE_I32 && is_contiguous(t);
}

bool is_cells(const ggml_tensor* t, int64_t n_query) {
    return is_leaf(t) && type(t) == GGML_TYPE_I64 && is_contiguous(t) && ne(t, 0) == n_query;
}

AttentionNode from_flash_attention(ggml_tensor* t) {
    AttentionNode n;
    n.flash = true;
    n.op = n.out = t;
    n.q = src(t, 0), n.k = src(t, 1), n.v = src(t, 2), n.mask = src(t, 3), n.sinks = src(t, 4);
    n.scale = float_param(t, 0);
    n.max_bias = float_param(t, 1);
    n.softcap = float_param(t, 2);
    if (!is_there(n.q) || !is_there(n.k) || !is_there(n.v)) return n.refusal = parts_missing, n;
    n.v_used = type(n.v);
    if (is_copy_of_cache(n.v)) n.v = src(n.v, 0);
    n.k_cache = owner(n.k);
    read_geometry(n);
    if (n.refusal.empty()) n.refusal = refusal_of_values(n);
    return n;
}

AttentionNode from_soft_max(ggml_tensor* t) {
    AttentionNode n;
    n.op = t;
    n.mask = src(t, 1), n.sinks = src(t, 2);
    n.post_scale = float_param(t, 0);
    n.max_bias = float_param(t, 1);
    n.layer = layer_from_name(name(t));
    read_scores(n);
    if (n.scores) {
        n.k = src(n.scores, 0), n.q = src(n.scores, 1);
        n.k_cache = owner(n.k);
        read_geometry(n);
    }
    return n;
}

void read_weighted_sum(AttentionNode& n, ggml_tensor* product) {
    if (!is_there(src(product, 0))) return;
    n.out = product;
    n.v = src(product, 0);
    n.v_used = type(n.v);
    // Where V lies as K does it is transposed for the kernel (multi-head latent attention: V is a part of K).
    if (is_copy_of_cache(n.v)) n.v = src(n.v, 0);
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
    const int n_nodes = ggml().graph_n_nodes(graph);
    ggml_tensor** nodes = ggml().graph_nodes(graph);
    Stores stores;
    std::unordered_map<const ggml_tensor*, int> index_of;       // MUL_MAT nodes, to know where the scores are made
    std::unordered_map<const ggml_tensor*, size_t> soft_max_of; // SOFT_MAX -> place in found.nodes
    // Nodes that lie in the graph and are not marked do not run, where the engine marks any.
    const bool marked = std::any_of(nodes, nodes + n_nodes, is_marked);
    for (int i = 0; i < n_nodes; ++i) {
        ggml_tensor* t = nodes[i];
        if (marked && !is_marked(t)) continue;
        switch (op(t)) {
        case Op::set_rows: stores[owner(t)].push_back({i, t}); break;
        case Op::cpy:
            if (view_src(t) && is_leaf(view_src(t))) stores[view_src(t)].push_back({i, t});
            break;
        case Op::rope:
            if (!found.positions && is_positions(src(t, 1))) found.positions = src(t, 1);
            break;
        case Op::mul_mat: {
            index_of[t] = i;
            const auto at = soft_max_of.find(src(t, 1));
            if (at != soft_max_of.end()) read_weighted_sum(found.nodes[at->second], t);
            break;
        }
        case Op::flash_attn_ext: {
            AttentionNode n = from_flash_attention(t);
            n.index = i;
            found.nodes.push_back(n);
            break;
        }
        case Op::soft_max: {
            if (!src(t, 1)) break; // expert routing and the like: no mask, no attention
            AttentionNode n = from_soft_max(t);
            n.index = n.scores && index_of.count(n.scores) ? index_of[n.scores] : i;
            soft_max_of[t] = found.nodes.size();
            found.nodes.push_back(n);
            break;
        }
        default: break;
        }
    }
    bool counted = false;
    for (size_t i = 0; i < found.nodes.size(); ++i) {
        AttentionNode& n = found.nodes[i];
        // With flash attention the name of the layer is on the reshape behind the node ("kqv_out-3").
        for (int j = n.index + 1; n.layer < 0 && j < n_nodes && j < n.index + 12; ++j) {
            if (src(nodes[j], 0) == n.out) n.layer = layer_from_name(name(nodes[j]));
        }
        if (n.layer < 0 && n.k_cache) n.layer = layer_from_name(name(n.k_cache));
        if (n.layer < 0) n.layer = static_cast<int>(i);
        if (n.refusal.empty()) n.refusal = refusal_of_values(n);
        read_stores(n, stores);
        // what is refused may have its tokens elsewhere
        if (n.q && n.refusal.empty() && !counted) found.n_query = ne(n.q, 1) * ne(n.q, 3), counted = true;
    }
    if (!counted && !found.nodes.empty() && found.nodes.front().q)
        found.n_query = ne(found.nodes.front().q, 1) * ne(found.nodes.front().q, 3);
    if (found.positions && ne(found.positions, 0) < found.n_query) found.positions = nullptr;
    return found;
}

} // namespace attnscope::capture
