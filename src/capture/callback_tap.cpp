#include "capture/tap.h"

#include <cstring>

namespace attnscope::capture {

namespace {

bool named(const ggml_tensor* t, const char* prefix) {
    return std::strncmp(name(t), prefix, std::strlen(prefix)) == 0;
}

// Is this MUL_MAT(V, P), where P is a masked soft-max?
bool is_weighted_sum(const ggml_tensor* t) {
    return op(t) == Op::mul_mat && src(t, 1) && op(src(t, 1)) == Op::soft_max && src(src(t, 1), 1);
}

// Of T5's bias: whose rows are chosen by an input that is reshaped.
bool is_buckets(const ggml_tensor* t) {
    const ggml_tensor* ids = src(t, 1);
    return ids && view_src(ids) && op(view_src(ids)) == Op::none && type(ids) == GGML_TYPE_I32 &&
           std::strncmp(name(view_src(ids)), "pos_bucket", 10) == 0;
}

// The whole tensor that a view looks into, in host memory.
std::vector<uint8_t> copy_of_owner(ggml_tensor* view) {
    const ggml_tensor* t = owner(view);
    std::vector<uint8_t> bytes(nbytes(t));
    ggml().backend_tensor_get(t, bytes.data(), 0, bytes.size());
    return bytes;
}

// What the cache under `v` holds at one cell, (n_head_kv, head_dim_v) contiguous.
void read_v_row(const AttentionNode& n, int64_t cell, uint8_t* to) {
    const size_t at = view_offs(n.v);
    if (n.flash) { // (dim, cell, head)
        const size_t head = row_bytes(type(n.v), ne(n.v, 0));
        ggml().backend_tensor_get_2d(owner(n.v), to, at + size_t(cell) * nb(n.v, 1), head, size_t(ne(n.v, 2)),
                                     nb(n.v, 2), head);
        return;
    }
    const size_t element = nb(n.v, 0); // (cell, dim, head)
    const auto dim = size_t(ne(n.v, 1));
    for (size_t h = 0; h < size_t(ne(n.v, 2)); ++h) {
        ggml().backend_tensor_get_2d(owner(n.v), to + h * dim * element, at + size_t(cell) * element + h * nb(n.v, 2),
                                     element, dim, nb(n.v, 1), element);
    }
}

} // namespace

bool CallbackTap::eval(ggml_tensor* t, bool ask, void* user_data) {
    auto* tap = static_cast<CallbackTap*>(user_data);
    if (ask) return tap->wants(t);
    tap->node_done(t);
    return true;
}

bool CallbackTap::whole() const {
    return batch_ && collector_.whole(*batch_);
}

bool CallbackTap::wants(ggml_tensor* t) {
    const auto reads_new = [&](const ggml_tensor* input) { return input && !inputs_.knows(input); };
    switch (op(t)) {
    case Op::set_rows: {
        const ggml_tensor* cache = owner(t);
        if (op(cache) != Op::none) return false;
        if (whole()) after_decode(); // the next batch has begun
        stores_[cache] = {t, false};
        return !named(cache, "cache_v") && reads_new(src(t, 1));
    }
    case Op::rope:
        if (whole()) after_decode();
        return !positions_ && is_positions(src(t, 1));
    case Op::get_rows: return is_buckets(t) && reads_new(owner(src(t, 1)));
    case Op::flash_attn_ext: return true;
    case Op::soft_max: return src(t, 1) && reads_new(from_soft_max(t).mask);
    case Op::mul_mat: return named(t, "kq-") || is_weighted_sum(t);
    default: return false;
    }
}

void CallbackTap::after_decode() {
    if (batch_) deliver(*batch_);
    batch_.reset();
    inputs_.clear();
    positions_ = nullptr;
    stores_.clear();
    q_.clear();
    k_.clear();
    last_layer_ = -1;
}

void CallbackTap::start_if_needed(const AttentionNode& n) {
    if (batch_) return;
    const int64_t n_query = ne(n.q, 1) * ne(n.q, 3);
    const bool known = positions_ && ne(positions_, 0) >= n_query;
    batch_ = collector_.begin(n_query, known ? reinterpret_cast<const int32_t*>(inputs_.data(positions_)) : nullptr,
                              streams_of(n));
}

// What `t`, which has run, is the last operation of.
AttentionNode CallbackTap::attention(ggml_tensor* t) {
    AttentionNode n;
    if (op(t) == Op::flash_attn_ext) {
        n = from_flash_attention(t);
        // The layer's name stands on a node that is not seen here. Who borrows another layer's keys comes after it.
        n.layer = n.k_cache ? layer_from_name(name(n.k_cache)) : -1;
        if (n.layer <= last_layer_ && !n.cross) n.layer = last_layer_ + 1;
    } else {
        n = from_soft_max(src(t, 1));
        read_weighted_sum(n, t);
    }
    if (n.graph_keys) {
        if (n.refusal.empty() && !stores_.empty() && !n.cross) n.refusal = "the keys do not come from a KV cache";
    } else if (n.refusal.empty()) {
        if (const auto store = stores_.find(n.k_cache); store != stores_.end() && !store->second.taken) {
            store->second.taken = true;
            n.k_cells = src(store->second.node, 1);
            if (!is_cells(n.k_cells, n_tokens(n))) n.refusal = "where its keys are stored is not known";
        }
    }
    return n;
}

void CallbackTap::node_done(ggml_tensor* t) {
    switch (op(t)) {
    case Op::set_rows: return inputs_.keep(src(t, 1));
    case Op::get_rows: return inputs_.keep(owner(src(t, 1)));
    case Op::rope: positions_ = src(t, 1); return inputs_.keep(positions_);
    case Op::soft_max: {
        const AttentionNode n = from_soft_max(t);
        if (n.refusal.empty()) inputs_.keep_mask(n.mask, n_tokens(n));
        return;
    }
    case Op::mul_mat:
        if (is_weighted_sum(t)) break;
        // Q, and K of no cache, may be overwritten before the weights are used: take them now.
        q_[t] = copy_of_owner(src(t, 1));
        if (op(owner(src(t, 0))) != Op::none) k_[t] = copy_of_owner(src(t, 0));
        return;
    default: break;
    }
    AttentionNode n = attention(t);
    if (!n.q) return;
    start_if_needed(n);
    last_layer_ = n.layer;
    if (n.refusal.empty() && n.flash) {
        inputs_.keep_mask(n.mask, n_tokens(n));
        if (!is_host(n.q)) q_[n.op] = copy_of_owner(n.q);
    }
    if (n.refusal.empty() && n.cache_streams > 1 && !is_host(n.k_cache)) n.refusal = streams_on_device;
    if (n.refusal.empty() && !n.flash && q_.count(n.scores) == 0) {
        n.refusal = "its queries are not seen in time through the callback (use the interposed entry)";
    }
    collector_.see(*batch_, n, inputs_);
    take(n);
}

// K and V of this graph, which has just used them.
void CallbackTap::take_without_cache(const AttentionNode& n, HostAttention& a) {
    a.device = !is_host(n.out);
    std::vector<uint8_t>& k = k_[n.flash ? n.op : n.scores];
    if (k.empty()) k = copy_of_owner(n.k);
    a.k = k.data() + (view_src(n.k) ? view_offs(n.k) : 0);
    v_ = copy_of_owner(n.v);
    a.v = v_.data() + (view_src(n.v) ? view_offs(n.v) : 0);
}

void CallbackTap::take(AttentionNode& n) {
    const size_t index = batch_->layers.size() - 1;
    const Batch::Layer& layer = batch_->layers[index];
    HostAttention a;
    std::vector<uint8_t> out;
    if (layer.info.captured()) {
        a = host_attention(n);
        if (const auto q = q_.find(n.flash ? n.op : n.scores); q != q_.end())
            a.q = q->second.data() + (view_src(n.q) ? view_offs(n.q) : 0);
        if (!is_host(n.out)) {
            out = copy_of_owner(n.out);
            a.out = out.data() + (view_src(n.out) ? view_offs(n.out) : 0);
        }
        if (n.graph_keys) {
            take_without_cache(n, a);
        } else if (!is_host(n.k_cache)) {
            a.device = true;
            Mirror& k = mirrors_[n.k_cache];
            Mirror& v = mirrors_[owner(n.v)];
            const bool v_in_k = &k == &v;
            const int64_t n_head_kv = layer.info.n_head_kv;
            const size_t v_head = row_bytes(type(n.v), layer.info.head_dim_v);
            const auto n_cells = static_cast<int64_t>(nbytes(n.k_cache) / nb(n.k, 1));
            if (!k.reserve(nb(n.k, 1), n_cells) || (!v_in_k && !v.reserve(size_t(n_head_kv) * v_head, n_cells))) {
                batch_->error = "there is no host memory to mirror the cache of a device";
                return;
            }
            if (n.k_cells) {
                for (const int64_t cell : batch_->groups[size_t(layer.written_group)].written) {
                    ggml().backend_tensor_get(n.k_cache, k.row(cell), size_t(cell) * nb(n.k, 1), nb(n.k, 1));
                    if (!v_in_k) read_v_row(n, cell, v.row(cell));
                }
            }
            a.k = k.data(), a.k_cell = k.row_bytes();
            a.v = v.data() + (v_in_k ? view_offs(n.v) : 0), a.v_cell = v.row_bytes();
            a.v_head = v_in_k ? nb(n.v, 2) : v_head;
            a.v_dim = ggml().type_size(type(n.v));
        }
    }
    collector_.choose_proofs(*batch_, index, index + 1);
    collector_.take(*batch_, index, a);
    collector_.prove(*batch_); // while the engine's tensors are valid
}

} // namespace attnscope::capture
