#include "tap/tap.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <cstring>

namespace attnscope::tap {

namespace {

bool named(const ggml_tensor* t, const char* prefix) { return std::strncmp(t->name, prefix, std::strlen(prefix)) == 0; }

// Is this MUL_MAT(V, P), where P is a masked soft-max?
bool is_weighted_sum(const ggml_tensor* t) {
    return t->op == GGML_OP_MUL_MAT && t->src[1] && t->src[1]->op == GGML_OP_SOFT_MAX && t->src[1]->src[1];
}

// Q as (n_query, n_head, head_dim) in `type`.
std::vector<uint8_t> read_q(const ggml_tensor* q, ggml_type type) {
    const int64_t dim = q->ne[0], n_query = q->ne[1], n_head = q->ne[2];
    const size_t row = ggml_row_size(type, dim);
    std::vector<uint8_t> out(size_t(n_query * n_head) * row);
    std::vector<float> one(static_cast<size_t>(dim));
    const auto from_float = ggml_get_type_traits_cpu(type)->from_float;
    for (int64_t i = 0; i < n_query; ++i) {
        for (int64_t h = 0; h < n_head; ++h) {
            ggml_backend_tensor_get(q, one.data(), size_t(i) * q->nb[1] + size_t(h) * q->nb[2],
                                    one.size() * sizeof(float));
            uint8_t* target = out.data() + size_t(i * n_head + h) * row;
            if (type == GGML_TYPE_F32) {
                std::memcpy(target, one.data(), row);
            } else {
                from_float(one.data(), target, dim);
            }
        }
    }
    return out;
}

} // namespace

bool CallbackTap::eval(ggml_tensor* t, bool ask, void* user_data) {
    auto* tap = static_cast<CallbackTap*>(user_data);
    if (ask) return tap->wants(t);
    tap->node_done(t);
    return true;
}

bool CallbackTap::wants(ggml_tensor* t) {
    switch (t->op) {
    case GGML_OP_SET_ROWS:
        cells_of_[owner(t)] = t->src[1];
        return false;
    case GGML_OP_ROPE:
        if (!collector.open() && t->src[1] && t->src[1]->op == GGML_OP_NONE) positions_ = t->src[1];
        return false;
    case GGML_OP_FLASH_ATTN_EXT: return true;
    case GGML_OP_MUL_MAT: return named(t, "kq-") || is_weighted_sum(t);
    default: return false;
    }
}

void CallbackTap::start_if_needed(int64_t n_query) {
    if (collector.open()) return;
    std::vector<int32_t> positions;
    if (positions_) {
        positions.resize(size_t(n_query));
        ggml_backend_tensor_get(positions_, positions.data(), 0, positions.size() * sizeof(int32_t));
    }
    collector.begin(n_query, positions_ ? positions.data() : nullptr);
    q_.clear();
    n_flash_ = 0;
    last_layer_ = -1;
}

void CallbackTap::node_done(ggml_tensor* t) {
    if (t->op == GGML_OP_MUL_MAT && named(t, "kq-")) {
        // Q may be overwritten before the weights are used: take it now.
        const int layer = layer_from_name(t->name);
        AttentionNode n;
        n.k = t->src[0];
        if (collector.open() && layer <= last_layer_) deliver(); // the next batch has begun
        start_if_needed(t->src[1]->ne[1]);
        q_[layer] = read_q(t->src[1], Collector::q_type_of(n));
        return;
    }
    AttentionNode n = t->op == GGML_OP_FLASH_ATTN_EXT ? from_flash_attention(t) : from_soft_max(t->src[1]);
    if (!n.flash) {
        n.v = t->src[0];
        n.out = t;
    } else {
        n.layer = n.k_cache ? layer_from_name(n.k_cache->name) : n_flash_;
        ++n_flash_;
    }
    if (collector.open() && n.flash && n.layer <= last_layer_) deliver();
    if (!n.q) return;
    start_if_needed(n.q->ne[1]);
    last_layer_ = n.layer;
    const auto cells = cells_of_.find(n.k_cache);
    if (cells != cells_of_.end()) n.k_cells = cells->second;
    if (n.refusal.empty() && n.flash) q_[n.layer] = read_q(n.q, Collector::q_type_of(n));
    collector.see(n);
    const auto q = q_.find(n.layer);
    collector.take(n, q == q_.end() ? nullptr : q->second.data());
}

} // namespace attnscope::tap
