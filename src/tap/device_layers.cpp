#include "tap/device_layers.h"

#include <ggml-cpu.h>

namespace attnscope::tap {

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
    s.remote = is_remote(s.device);
    s.group = layer.written_group;
    s.writes_k = node.k_cells != nullptr;
    s.k_type = layer.info.k_type;
    s.k_row_bytes = node.k->nb[1];
    s.k_mirror = &mirrors[node.k_cache];
    s.k_mirror->reserve(s.k_row_bytes, layer.n_cells);
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
    if (s.writes_v) s.v_mirror->reserve(ggml_row_size(node.v->type, s.v_width), layer.n_cells);
    return s;
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

} // namespace attnscope::tap
