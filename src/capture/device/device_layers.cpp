#include "capture/device/device_layers.h"

#include <ggml-cpu.h>

namespace attnscope::capture {

namespace {

// Offset of a view's first element inside the tensor that owns its data. Views of views keep the sum in view_offs.
size_t offset_in_owner(const ggml_tensor* t) { return t->view_src ? t->view_offs : 0; }

Placed placed(ggml_tensor* t, const Placement& placement, size_t token_stride, size_t head_stride) {
    const Placement::Place& p = placement.place_of(t);
    return {p.block, p.offset + offset_in_owner(t), token_stride, head_stride};
}

// What SET_ROWS stores: one row a token (elements one behind the other), or, where V is kept transposed, one element a row.
Placed stored_rows(ggml_tensor* t, const Placement& placement, int64_t n_query, int64_t& width) {
    const bool one_row_a_token = t->ne[1] == n_query;
    width = one_row_a_token ? t->ne[0] : ggml_nelements(t) / n_query;
    return placed(t, placement, one_row_a_token ? t->nb[1] : size_t(width) * sizeof(float), 0);
}

} // namespace

void store_f32_row(DType type, const float* from, int64_t n, uint8_t* to) {
    if (type == DType::f32) {
        std::memcpy(to, from, size_t(n) * sizeof(float));
    } else {
        ggml_get_type_traits_cpu(static_cast<ggml_type>(type))->from_float(from, to, n);
    }
}

LayerSource source_of(const AttentionNode& node, const Batch::Layer& layer, const Placement& placement, Mirrors& mirrors) {
    LayerSource s;
    if (!layer.info.captured()) return s;
    s.captured = true;
    s.q = placed(node.q, placement, node.q->nb[1], node.q->nb[2]);
    s.out = placed(node.out, placement, node.flash ? node.out->nb[2] : node.out->nb[1],
                   node.flash ? node.out->nb[1] : node.out->nb[2]);
    s.host = host_attention(node);
    s.host.device = !is_host(node.k_cache);
    s.on_device = !is_host(node.k_cache);
    if (!s.on_device) return s;
    s.device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(node.k_cache->buffer));
    s.k_cache = node.k_cache;
    s.k_offset = offset_in_owner(node.k);
    s.remote = is_remote(s.device);
    s.group = layer.written_group;
    s.writes_k = node.k_cells != nullptr;
    s.k_type = layer.info.k_type;
    s.k_row_bytes = node.k->nb[1];
    s.k_mirror = &mirrors[node.k_cache];
    const auto n_cells = static_cast<int64_t>(ggml_nbytes(node.k_cache) / s.k_row_bytes);
    s.mirrored = s.k_mirror->reserve(s.k_row_bytes, n_cells);
    const int64_t n_query = node.q->ne[1];
    if (s.writes_k && s.remote) s.k_new = stored_rows(node.k_new, placement, n_query, s.k_width);
    s.v_type = layer.v_type;
    const size_t element = ggml_type_size(node.v->type);
    if (owner(node.v) == node.k_cache) {
        s.v_offset = node.v->view_offs;
        s.v_head = node.v->nb[2];
        s.v_dim = node.v->nb[0];
        return s;
    }
    const int64_t dim_v = layer.info.head_dim_v;
    s.writes_v = s.writes_k;
    if (s.writes_v) s.v_new = stored_rows(node.v_new, placement, n_query, s.v_width);
    s.v_mirror = &mirrors[owner(node.v)];
    s.v_head = ggml_row_size(node.v->type, dim_v);
    s.v_dim = element;
    if (s.writes_v) s.mirrored = s.v_mirror->reserve(ggml_row_size(node.v->type, s.v_width), n_cells) && s.mirrored;
    return s;
}

namespace {

// Bytes from the first to behind the last float of (n_query, n_head, width).
size_t extent(const Placed& p, int64_t width, int64_t n_head, int64_t n_query) {
    return size_t(n_query - 1) * p.token_stride + size_t(n_head - 1) * p.head_stride + size_t(width) * sizeof(float);
}

// Picks the heads of the proofs of one layer out of Q or the output. False: they are no rows of equal distance.
bool pick(const Placed& p, int64_t width, int64_t n_head, const Batch& batch, size_t first_proof, size_t end_proof,
          GatherPlan::Picked& picked) {
    const size_t row = size_t(width) * sizeof(float);
    if (p.token_stride % row != 0 || p.head_stride % row != 0) return false;
    picked.from = p.offset;
    picked.width = width;
    picked.n_rows = static_cast<int64_t>(extent(p, width, n_head, batch.n_query) / row);
    for (size_t i = first_proof; i < end_proof; ++i) {
        const Batch::Proof& proof = batch.proofs[i];
        picked.rows.push_back(static_cast<int32_t>((size_t(proof.token) * p.token_stride + size_t(proof.head) * p.head_stride) / row));
    }
    return true;
}

} // namespace

bool BlockGather::make(size_t block, const std::vector<LayerSource>& sources, const Batch& batch, int64_t first_kept) {
    block_ = block;
    plan_ = {};
    v_new_.clear(), q_kept_.clear(), q_whole_.clear(), q_.clear(), out_.clear();
    kept_token_ = 0;
    for (size_t l = 0, first = 0, end = 0; l < sources.size(); ++l, first = end) {
        while (end < batch.proofs.size() && size_t(batch.proofs[end].layer) == l) ++end;
        const LayerSource& s = sources[l];
        const LayerInfo& info = batch.layers[l].info;
        if (!s.captured) continue;
        if (s.writes_v && s.v_new.block == block) {
            const size_t bytes = size_t(batch.n_query) * s.v_new.token_stride;
            const size_t to = plan_.room(bytes);
            plan_.whole.push_back({s.v_new.offset, to, bytes});
            v_new_.push_back({l, to});
        }
        const auto pick_into = [&](const Placed& p, int64_t width, std::vector<ProofPlace>& places) {
            if (p.block != block || first == end) return true;
            GatherPlan::Picked picked;
            if (!pick(p, width, info.n_head, batch, first, end, picked)) return false;
            picked.to = plan_.room((end - first) * size_t(width) * sizeof(float));
            for (size_t i = first; i < end; ++i) places.push_back({i, picked.to + (i - first) * size_t(width) * sizeof(float)});
            plan_.picked.push_back(std::move(picked));
            return true;
        };
        if (!pick_into(s.q, info.head_dim, q_) || !pick_into(s.out, info.head_dim_v, out_)) return false;
        if (s.q.block == block && dtype_block(info.q_type) == 1) kept_token_ += info.q_bytes();
    }
    if (first_kept >= batch.n_query) return true;
    size_t at = plan_.room(kept_token_ * size_t(batch.n_query - first_kept));
    for (size_t l = 0; l < sources.size(); ++l) {
        const LayerSource& s = sources[l];
        const LayerInfo& info = batch.layers[l].info;
        if (!s.captured || s.q.block != block) continue;
        if (dtype_block(info.q_type) > 1) { // not every back end that says it can copies into blocks with strides
            const size_t bytes = extent(s.q, info.head_dim, info.n_head, batch.n_query);
            const size_t to = plan_.room(bytes);
            plan_.whole.push_back({s.q.offset, to, bytes});
            q_whole_.push_back({l, to});
            continue;
        }
        GatherPlan::Heads h;
        h.from = s.q.offset + size_t(first_kept) * s.q.token_stride;
        h.token_stride = s.q.token_stride, h.head_stride = s.q.head_stride;
        h.to = at, h.to_token = kept_token_;
        h.head_dim = info.head_dim, h.n_head = info.n_head, h.n_tokens = batch.n_query - first_kept;
        h.type = info.q_type;
        plan_.heads.push_back(h);
        q_kept_.push_back({l, at});
        at += info.q_bytes();
    }
    return true;
}

void BlockGather::apply(std::vector<LayerSource>& sources) const {
    for (const LayerPlace& p : v_new_) sources[p.layer].v_new.offset = p.at;
    for (const LayerPlace& p : q_whole_) sources[p.layer].q.offset = p.at;
    for (const LayerPlace& p : q_kept_) {
        sources[p.layer].q_kept = {block_, p.at, kept_token_, 0};
        sources[p.layer].has_q_kept = true;
    }
}

void BlockGather::arrived(const uint8_t* base, Batch& batch) const {
    for (const ProofPlace& p : q_) batch.proofs[p.proof].q = reinterpret_cast<const float*>(base + p.at);
    for (const ProofPlace& p : out_) batch.proofs[p.proof].out = reinterpret_cast<const float*>(base + p.at);
}

size_t rows_to_fetch(std::vector<LayerSource>& sources, const std::vector<const ggml_tensor*>& caches, ggml_backend_dev_t device,
                     const Batch& batch, std::vector<Fetch::Rows>& rows) {
    size_t at = 0;
    for (size_t l = 0; l < sources.size(); ++l) {
        LayerSource& s = sources[l];
        if (!s.captured || !s.on_device || s.device != device || s.remote || !s.writes_k) continue;
        s.k_rows_at = at;
        const std::vector<int64_t>& cells = batch.groups[size_t(s.group)].written;
        for (size_t i = 0; i < cells.size();) {
            size_t n = 1;
            while (i + n < cells.size() && cells[i + n] == cells[i] + static_cast<int64_t>(n)) ++n;
            rows.push_back({caches[l], size_t(cells[i]) * s.k_row_bytes, n * s.k_row_bytes, at});
            at += n * s.k_row_bytes;
            i += n;
        }
    }
    return at;
}

} // namespace attnscope::capture
