#include "capture/tap.h"

#include <ggml-backend.h>

#include <cstring>

namespace attnscope::capture {

namespace {

bool named(const ggml_tensor* t, const char* prefix) {
    return std::strncmp(t->name, prefix, std::strlen(prefix)) == 0;
}

// Is this MUL_MAT(V, P), where P is a masked soft-max?
bool is_weighted_sum(const ggml_tensor* t) {
    return t->op == GGML_OP_MUL_MAT && t->src[1] && t->src[1]->op == GGML_OP_SOFT_MAX && t->src[1]->src[1];
}

// The whole tensor that a view looks into, in host memory.
std::vector<uint8_t> copy_of_owner(ggml_tensor* view) {
    const ggml_tensor* t = owner(view);
    std::vector<uint8_t> bytes(ggml_nbytes(t));
    ggml_backend_tensor_get(t, bytes.data(), 0, bytes.size());
    return bytes;
}

// What the cache under `v` holds at one cell, (n_head_kv, head_dim_v) contiguous.
void read_v_row(const AttentionNode& n, int64_t cell, uint8_t* to) {
    const size_t at = n.v->view_offs;
    if (n.flash) { // (dim, cell, head)
        const size_t head = ggml_row_size(n.v->type, n.v->ne[0]);
        ggml_backend_tensor_get_2d(owner(n.v), to, at + size_t(cell) * n.v->nb[1], head, size_t(n.v->ne[2]), n.v->nb[2],
                                   head);
        return;
    }
    const size_t element = n.v->nb[0]; // (cell, dim, head)
    const auto dim = size_t(n.v->ne[1]);
    for (size_t h = 0; h < size_t(n.v->ne[2]); ++h) {
        ggml_backend_tensor_get_2d(owner(n.v), to + h * dim * element, at + size_t(cell) * element + h * n.v->nb[2],
                                   element, dim, n.v->nb[1], element);
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
    return batch_ && collector_.geometry_known() && batch_->layers.size() >= collector_.geometry().layers.size();
}

bool CallbackTap::wants(ggml_tensor* t) {
    const auto reads_new = [&](const ggml_tensor* input) { return input && !inputs_.knows(input); };
    switch (t->op) {
    case GGML_OP_SET_ROWS: {
        const ggml_tensor* cache = owner(t);
        if (cache->op != GGML_OP_NONE) return false;
        if (whole()) after_decode(); // the next batch has begun
        stores_[cache] = {t, false};
        return !named(cache, "cache_v") && reads_new(t->src[1]);
    }
    case GGML_OP_ROPE:
        if (whole()) after_decode();
        return !positions_ && is_positions(t->src[1]);
    case GGML_OP_FLASH_ATTN_EXT: return true;
    case GGML_OP_SOFT_MAX: return t->src[1] && reads_new(from_soft_max(t).mask);
    case GGML_OP_MUL_MAT: return named(t, "kq-") || is_weighted_sum(t);
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
    last_layer_ = -1;
}

void CallbackTap::start_if_needed(int64_t n_query) {
    if (batch_) return;
    const bool known = positions_ && positions_->ne[0] >= n_query;
    batch_ = collector_.begin(n_query, known ? reinterpret_cast<const int32_t*>(inputs_.data(positions_)) : nullptr);
}

// What `t`, which has run, is the last operation of.
AttentionNode CallbackTap::attention(ggml_tensor* t) {
    AttentionNode n;
    if (t->op == GGML_OP_FLASH_ATTN_EXT) {
        n = from_flash_attention(t);
        // The layer's name stands on a node that is not seen here. Who borrows another layer's keys comes after it.
        n.layer = n.k_cache ? layer_from_name(n.k_cache->name) : -1;
        if (n.layer <= last_layer_) n.layer = last_layer_ + 1;
    } else {
        n = from_soft_max(t->src[1]);
        read_weighted_sum(n, t);
    }
    if (n.refusal.empty()) {
        if (const auto store = stores_.find(n.k_cache); store != stores_.end() && !store->second.taken) {
            store->second.taken = true;
            n.k_cells = store->second.node->src[1];
            if (!is_cells(n.k_cells, n.q->ne[1])) n.refusal = "where its keys are stored is not known";
        }
    }
    return n;
}

void CallbackTap::node_done(ggml_tensor* t) {
    switch (t->op) {
    case GGML_OP_SET_ROWS: return inputs_.keep(t->src[1]);
    case GGML_OP_ROPE: positions_ = t->src[1]; return inputs_.keep(positions_);
    case GGML_OP_SOFT_MAX: {
        const AttentionNode n = from_soft_max(t);
        if (n.refusal.empty()) inputs_.keep_mask(n.mask, n.q->ne[1]);
        return;
    }
    case GGML_OP_MUL_MAT:
        if (is_weighted_sum(t)) break;
        // Q may be overwritten before the weights are used: take it now.
        q_[t] = copy_of_owner(t->src[1]);
        return;
    default: break;
    }
    AttentionNode n = attention(t);
    if (!n.q) return;
    start_if_needed(n.q->ne[1]);
    last_layer_ = n.layer;
    if (n.refusal.empty() && n.flash) {
        inputs_.keep_mask(n.mask, n.q->ne[1]);
        if (!is_host(n.q)) q_[n.op] = copy_of_owner(n.q);
    }
    if (n.refusal.empty() && !n.flash && q_.count(n.scores) == 0) {
        n.refusal = "its queries are not seen in time through the callback (use the interposed entry)";
    }
    collector_.see(*batch_, n, inputs_);
    take(n);
}

void CallbackTap::take(AttentionNode& n) {
    const size_t index = batch_->layers.size() - 1;
    const Batch::Layer& layer = batch_->layers[index];
    HostAttention a;
    std::vector<uint8_t> out;
    if (layer.info.captured()) {
        a = host_attention(n);
        if (const auto q = q_.find(n.flash ? n.op : n.scores); q != q_.end())
            a.q = q->second.data() + (n.q->view_src ? n.q->view_offs : 0);
        if (!is_host(n.out)) {
            out = copy_of_owner(n.out);
            a.out = out.data() + (n.out->view_src ? n.out->view_offs : 0);
        }
        if (!is_host(n.k_cache)) {
            a.device = true;
            Mirror& k = mirrors_[n.k_cache];
            Mirror& v = mirrors_[owner(n.v)];
            const bool v_in_k = &k == &v;
            const int64_t n_head_kv = layer.info.n_head_kv;
            const size_t v_head = ggml_row_size(n.v->type, layer.info.head_dim_v);
            const auto n_cells = static_cast<int64_t>(ggml_nbytes(n.k_cache) / n.k->nb[1]);
            if (!k.reserve(n.k->nb[1], n_cells) || (!v_in_k && !v.reserve(size_t(n_head_kv) * v_head, n_cells))) {
                batch_->error = "there is no host memory to mirror the cache of a device";
                return;
            }
            if (n.k_cells) {
                for (const int64_t cell : batch_->groups[size_t(layer.written_group)].written) {
                    ggml_backend_tensor_get(n.k_cache, k.row(cell), size_t(cell) * n.k->nb[1], n.k->nb[1]);
                    if (!v_in_k) read_v_row(n, cell, v.row(cell));
                }
            }
            a.k = k.data(), a.k_cell = k.row_bytes();
            a.v = v.data() + (v_in_k ? n.v->view_offs : 0), a.v_cell = v.row_bytes();
            a.v_head = v_in_k ? n.v->nb[2] : v_head;
            a.v_dim = ggml_type_size(n.v->type);
        }
    }
    collector_.choose_proofs(*batch_, index, index + 1);
    collector_.take(*batch_, index, a);
    collector_.prove(*batch_); // while the engine's tensors are valid
}

} // namespace attnscope::capture
