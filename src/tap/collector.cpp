#include "tap/collector.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace attnscope::tap {

namespace {

// Reads a whole tensor that may live on a device. Host tensors are not copied.
const uint8_t* host_data(const ggml_tensor* t, std::vector<uint8_t>& copy) {
    ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;
    if (!buffer || ggml_backend_buffer_is_host(buffer)) return static_cast<const uint8_t*>(t->data);
    copy.resize(ggml_nbytes(t));
    ggml_backend_tensor_get(t, copy.data(), 0, copy.size());
    return copy.data();
}

bool is_host(const ggml_tensor* t) {
    ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;
    return !buffer || ggml_backend_buffer_is_host(buffer);
}

bool same_shape(const LayerInfo& a, const LayerInfo& b) {
    return a.layer == b.layer && a.n_head == b.n_head && a.n_head_kv == b.n_head_kv && a.head_dim == b.head_dim &&
           a.k_type == b.k_type && a.q_type == b.q_type && a.mask_group == b.mask_group && a.k_layer == b.k_layer &&
           a.absent == b.absent;
}

// A step through the (layer, head) pairs that reaches all of them and does not stay in one layer.
uint64_t coprime_step(uint64_t n) {
    uint64_t step = static_cast<uint64_t>(static_cast<double>(n) * 0.6180339887498949) | 1;
    while (step > 1 && std::gcd(step, n) != 1) step += 2;
    return step;
}

} // namespace

ggml_type Collector::q_type_of(const AttentionNode& node) {
    return ggml_get_type_traits_cpu(node.k->type)->vec_dot_type;
}

void Collector::fail(const std::string& why) {
    if (error_.empty()) error_ = why;
}

void Collector::reset() {
    next_index_ = 0;
    samples_ = 0;
    open_ = false;
    for (Group& g : groups_) g.map.clear();
}

void Collector::truncate(int64_t index) { next_index_ = std::min(next_index_, index); }

void Collector::begin(int64_t n_query, const int32_t* positions) {
    open_ = true;
    error_.clear();
    n_unknown_ = 0;
    n_query_ = n_query;
    n_groups_ = 0;
    layers_.clear();
    taken_.clear();
    witnesses_.assign(size_t(n_query), {});
    positions_.resize(size_t(n_query));
    for (int64_t i = 0; i < n_query; ++i) {
        positions_[size_t(i)] = positions ? positions[i] : static_cast<int32_t>(next_index_ + i);
    }
}

int32_t Collector::group_of(const AttentionNode& node) {
    for (int32_t g = 0; g < n_groups_; ++g) {
        Group& group = groups_[size_t(g)];
        if (group.mask != node.mask) continue;
        // A layer that borrows another layer's keys writes none of its own.
        if (!node.k_cells || !group.k_cells || group.k_cells == node.k_cells) return g;
    }
    if (size_t(n_groups_) == groups_.size()) groups_.emplace_back();
    Group& group = groups_[size_t(n_groups_)];
    group.mask = node.mask;
    group.k_cells = node.k_cells;
    group.cells.clear();
    group.columns.clear();
    group.written.clear();
    return n_groups_++;
}

void Collector::see(const AttentionNode& node) {
    if (!node.refusal.empty()) return;
    const int32_t before = n_groups_;
    const int32_t g = group_of(node);
    if (g != before) return; // seen with an earlier layer
    Group& group = groups_[size_t(g)];
    std::vector<uint8_t> cells_copy, mask_copy;
    if (group.k_cells) {
        const uint8_t* cells = host_data(group.k_cells, cells_copy);
        for (int64_t i = 0; i < n_query_; ++i) {
            int64_t cell = 0;
            std::memcpy(&cell, cells + size_t(i) * sizeof cell, sizeof cell);
            group.written.push_back(cell);
            group.map.assign(cell, next_index_ + i, positions_[size_t(i)]);
        }
    }
    const uint8_t* mask = host_data(group.mask, mask_copy);
    for (int64_t i = 0; i < n_query_; ++i) {
        group.cells.push_back(visible_cells(group.mask, mask, i));
        group.columns.push_back(group.map.columns_of(group.cells.back(), &n_unknown_));
    }
}

LayerInfo Collector::describe(const AttentionNode& node, int32_t group) {
    LayerInfo info;
    info.layer = node.layer;
    info.absent = node.refusal;
    if (!node.refusal.empty()) return info;
    if (!dtype_known(node.k->type) || !dtype_known(q_type_of(node))) {
        info.absent = std::string("keys of type ") + ggml_type_name(node.k->type) + " are not supported";
        return info;
    }
    info.n_head = static_cast<int32_t>(node.q->ne[2]);
    info.n_head_kv = static_cast<int32_t>(node.k->ne[2]);
    info.head_dim = static_cast<int32_t>(node.k->ne[0]);
    info.head_dim_v = static_cast<int32_t>(node.out->ne[0]);
    info.q_type = static_cast<DType>(q_type_of(node));
    info.k_type = static_cast<DType>(node.k->type);
    info.mask_group = group;
    info.scale = node.scale;
    info.softcap = node.softcap;
    info.post_scale = node.post_scale;
    info.max_bias = node.max_bias;
    if (node.sinks) {
        std::vector<uint8_t> copy;
        const uint8_t* data = host_data(node.sinks, copy);
        info.sinks.resize(size_t(info.n_head));
        std::memcpy(info.sinks.data(), data, info.sinks.size() * sizeof(float));
    }
    return info;
}

void Collector::take(const AttentionNode& node, const uint8_t* q) {
    const auto index = static_cast<int32_t>(layers_.size());
    LayerInfo info = describe(node, node.refusal.empty() ? group_of(node) : 0);
    info.k_layer = index;
    Taken taken;
    taken.node = node;
    taken.q = q;
    if (info.captured()) {
        if (!node.k_cells) { // keys of an earlier layer
            info.k_layer = -1;
            for (int32_t i = 0; i < index; ++i) {
                if (taken_[size_t(i)].node.k_cache == node.k_cache) info.k_layer = layers_[size_t(i)].k_layer;
            }
            if (info.k_layer < 0) {
                info.absent = "its keys are not written by this graph";
                info.n_head = 0;
                info.k_layer = index;
            }
        } else {
            taken.group = info.mask_group;
        }
    }
    layers_.push_back(std::move(info));
    taken_.push_back(std::move(taken));
    if (options_.witness && geometry_known_ && layers_.back().captured() && is_host(node.k) && is_host(node.v)) {
        prove(node, index, q);
    }
}

// Proves the heads of this layer whose turn it is.
void Collector::prove(const AttentionNode& node, int32_t layer_index, const uint8_t* q) {
    const LayerInfo& info = layers_.back();
    const auto n_layer = static_cast<uint64_t>(geometry_.layers.size());
    const auto n_head = static_cast<uint64_t>(geometry_.max_heads());
    const uint64_t n_pairs = n_layer * n_head;
    if (n_pairs == 0) return;
    const uint64_t step = coprime_step(n_pairs);
    const int32_t each = n_query_ == 1 ? options_.witnesses_single : options_.witnesses_batch;
    const Group& group = groups_[size_t(info.mask_group)];
    for (int64_t i = 0; i < n_query_; ++i) {
        for (int32_t w = 0; w < each; ++w) {
            const uint64_t sample = samples_ + static_cast<uint64_t>(i * each + w);
            const uint64_t pair = (sample % n_pairs) * step % n_pairs;
            if (pair / n_head != static_cast<uint64_t>(layer_index)) continue;
            const auto head = static_cast<int32_t>(pair % n_head) % info.n_head;
            const int64_t head_kv = head / (info.n_head / info.n_head_kv);
            HeadSample s;
            s.layer = &info;
            s.layer_index = layer_index;
            s.head = head;
            s.q = q + size_t(i) * info.q_bytes();
            s.k = static_cast<const uint8_t*>(node.k->data);
            s.k_stride = node.k->nb[1];
            s.n_cells = node.k->ne[1];
            s.visible = group.cells[size_t(i)];
            s.positions = group.map.positions();
            s.position = positions_[size_t(i)];
            s.v_type = static_cast<DType>(node.v->type);
            // flash: (dim, cell, head); otherwise (cell, dim, head)
            s.v_dim_stride = node.flash ? node.v->nb[0] : node.v->nb[1];
            s.v_cell_stride = node.flash ? node.v->nb[1] : node.v->nb[0];
            s.v = static_cast<const uint8_t*>(node.v->data) + size_t(head_kv) * node.v->nb[2];
            const size_t out_offset = node.flash ? size_t(head) * node.out->nb[1] + size_t(i) * node.out->nb[2]
                                                 : size_t(i) * node.out->nb[1] + size_t(head) * node.out->nb[2];
            s.out = reinterpret_cast<const float*>(static_cast<const char*>(node.out->data) + out_offset);
            s.flash = node.flash;
            s.batched = n_query_ > 1;
            s.cells = &group.map;
            witnesses_[size_t(i)].push_back(options_.witness(s));
        }
    }
}

bool Collector::finish(std::vector<Frame>& frames, std::string& error) {
    open_ = false;
    if (!geometry_known_) {
        geometry_.layers = layers_;
        geometry_.n_mask_groups = std::max(n_groups_, 1);
        geometry_known_ = true;
    } else {
        if (geometry_.layers.size() != layers_.size()) fail("the number of attention layers changed");
        for (size_t i = 0; i < layers_.size() && error_.empty(); ++i) {
            if (!same_shape(geometry_.layers[i], layers_[i])) {
                fail("the shape of layer " + std::to_string(layers_[i].layer) + " changed between two graphs");
            }
        }
    }
    if (n_unknown_ > 0) fail("the mask shows cells whose tokens were decoded before the capture began");
    if (!error_.empty()) {
        error = error_;
        return false;
    }
    const size_t q_bytes = geometry_.q_bytes(), k_bytes = geometry_.k_bytes();
    for (int64_t i = 0; i < n_query_; ++i) {
        Frame f;
        f.index = next_index_ + i;
        f.position = positions_[size_t(i)];
        f.batched = n_query_ > 1;
        f.witnesses = std::move(witnesses_[size_t(i)]);
        const bool with_q = !keep_q || keep_q(f.index);
        if (with_q) f.q.resize(q_bytes);
        f.k.resize(k_bytes);
        size_t q_at = 0, k_at = 0;
        for (int32_t l = 0; l < geometry_.n_layer(); ++l) {
            const LayerInfo& info = geometry_.layers[size_t(l)];
            if (!info.captured()) continue;
            const Taken& t = taken_[size_t(l)];
            if (with_q) std::memcpy(f.q.data() + q_at, t.q + size_t(i) * info.q_bytes(), info.q_bytes());
            q_at += info.q_bytes();
            if (!geometry_.owns_k(l)) continue;
            const size_t offset = size_t(groups_[size_t(t.group)].written[size_t(i)]) * t.node.k->nb[1];
            if (is_host(t.node.k_cache)) {
                std::memcpy(f.k.data() + k_at, static_cast<const uint8_t*>(t.node.k_cache->data) + offset,
                            info.k_bytes());
            } else {
                ggml_backend_tensor_get(t.node.k_cache, f.k.data() + k_at, offset, info.k_bytes());
            }
            k_at += info.k_bytes();
        }
        for (int32_t g = 0; g < geometry_.n_mask_groups; ++g) {
            f.visible.push_back(g < n_groups_ ? std::move(groups_[size_t(g)].columns[size_t(i)]) : Ranges{});
        }
        frames.push_back(std::move(f));
    }
    const int32_t each = n_query_ == 1 ? options_.witnesses_single : options_.witnesses_batch;
    samples_ += static_cast<uint64_t>(n_query_ * each);
    next_index_ += n_query_;
    return true;
}

} // namespace attnscope::tap
