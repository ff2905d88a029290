#include "capture/device/device_layers.h"

#include "attention/engine_arithmetic.h"

#include <cstring>

namespace attnscope::capture {

namespace {

// Offset of a view's first element inside the tensor that owns its data. Views of views keep the sum in view_offs.
size_t offset_in_owner(const ggml_tensor* t) {
    return view_src(t) ? view_offs(t) : 0;
}

Placed placed(ggml_tensor* t, const Placement& placement, size_t token_stride, size_t head_stride) {
    const Placement::Place& p = placement.place_of(t);
    return {p.block, p.offset + offset_in_owner(t), token_stride, head_stride};
}

// What SET_ROWS stores: one row a token (elements one behind the other), or, where V is kept transposed, one element a row.
DeviceLayer::Stored stored_rows(ggml_tensor* t, const Placement& placement, int64_t n_query, DType type) {
    const bool one_row_a_token = ne(t, 1) == n_query;
    const int64_t width = one_row_a_token ? ne(t, 0) : nelements(t) / n_query;
    return {placed(t, placement, one_row_a_token ? nb(t, 1) : size_t(width) * sizeof(float), 0), width, type};
}

const uint8_t* at(const Placed& p, std::span<const uint8_t* const> bases) {
    return bases[p.block] + p.offset;
}

// Row `i` of what was stored, into a mirror.
void store_row(const DeviceLayer::Stored& stored, std::span<const uint8_t* const> bases, size_t i, uint8_t* to) {
    const uint8_t* from = at(stored.at, bases) + i * stored.at.token_stride;
    store_f32_row(stored.type, reinterpret_cast<const float*>(from), stored.width, to);
}

} // namespace

void store_f32_row(DType type, const float* from, int64_t n, uint8_t* to) {
    if (type == DType::f32) {
        std::memcpy(to, from, size_t(n) * sizeof(float));
    } else {
        attention::engine_arithmetic(type).from_float(from, to, n);
    }
}

Result<std::optional<LayerSource>> source_of(const AttentionNode& node, const Batch::Layer& layer,
                                             const Placement& placement, Mirrors& mirrors) {
    if (!layer.info.captured()) return std::optional<LayerSource>();
    LayerSource s;
    s.q = placed(node.q, placement, nb(node.q, 1), nb(node.q, 2));
    s.out = placed(node.out, placement, node.flash ? nb(node.out, 2) : nb(node.out, 1),
                   node.flash ? nb(node.out, 1) : nb(node.out, 2));
    const HostAttention engine = host_attention(node);
    s.q.stream_tokens = s.out.stream_tokens = engine.stream_tokens;
    s.q.stream_stride = engine.q_stream, s.out.stream_stride = engine.out_stream;
    if (node.graph_keys) {
        s.cache = GraphLayer{placed(node.k, placement, engine.k_cell, engine.k_head),
                             placed(node.v, placement, engine.v_cell, engine.v_head), engine.v_dim, !is_host(node.out)};
        return std::optional(s);
    }
    if (is_host(node.k_cache)) {
        s.cache = HostLayer{engine};
        return std::optional(s);
    }
    DeviceLayer d;
    d.device = ggml().backend_buft_get_device(ggml().backend_buffer_get_type(buffer(node.k_cache)));
    d.k_cache = node.k_cache;
    d.k = engine.k;
    // of the cache's first stream, whichever this graph computes
    const size_t first = size_t(node.first_stream * node.stream_cells) * engine.k_cell;
    d.k_offset = offset_in_owner(node.k) - first;
    d.k_cell = engine.k_cell;
    d.group = layer.written_group;
    if (node.cache_streams > 1) d.stream_cells = node.stream_cells;
    d.k_mirror = d.v_mirror = &mirrors[node.k_cache];
    const auto n_cells = static_cast<int64_t>(nbytes(node.k_cache) / d.k_cell);
    bool mirrored = d.k_mirror->reserve(d.k_cell, n_cells);
    const int64_t n_query = n_tokens(node);
    const bool writes = stores_keys(node);
    if (writes && is_remote(d.device))
        d.k_new = stored_rows(node.k_new, placement, n_query, layer.info.k_type);
    else if (writes)
        d.k_new = DeviceLayer::Fetched{};
    if (owner(node.v) == node.k_cache) {
        d.v_offset = view_offs(node.v) - first;
        d.v_head = nb(node.v, 2);
        d.v_dim = node.flash ? nb(node.v, 0) : nb(node.v, 1);
    } else {
        if (writes) d.v_new = stored_rows(node.v_new, placement, n_query, layer.v_type);
        d.v_mirror = &mirrors[owner(node.v)];
        d.v_head = row_bytes(type(node.v), layer.info.head_dim_v);
        d.v_dim = ggml().type_size(type(node.v));
        if (writes) mirrored = d.v_mirror->reserve(row_bytes(type(node.v), d.v_new->width), n_cells) && mirrored;
    }
    if (!mirrored) return Error{ErrorKind::io, "there is no host memory to mirror the cache of a device"};
    s.cache = d;
    return std::optional(s);
}

void store_new(const DeviceLayer& layer, const Batch& batch, std::span<const uint8_t* const> bases,
               const uint8_t* rows) {
    const auto* fetched = std::get_if<DeviceLayer::Fetched>(&layer.k_new);
    const auto* stored = std::get_if<DeviceLayer::Stored>(&layer.k_new);
    const std::vector<int64_t>& cells = batch.groups[size_t(layer.group)].written;
    for (size_t i = 0; i < cells.size(); ++i) {
        if (fetched) std::memcpy(layer.k_mirror->row(cells[i]), rows + fetched->at + i * fetched->token, layer.k_cell);
        if (stored) store_row(*stored, bases, i, layer.k_mirror->row(cells[i]));
        if (layer.v_new) store_row(*layer.v_new, bases, i, layer.v_mirror->row(cells[i]));
    }
}

HostAttention arrived_at(const LayerSource& source, std::span<const uint8_t* const> bases, int64_t first_kept) {
    HostAttention a;
    if (const auto* host = std::get_if<HostLayer>(&source.cache)) a = host->engine;
    if (const DeviceLayer* d = source.device()) {
        a.device = true;
        a.k = d->k_mirror->data();
        a.k_cell = d->k_mirror->row_bytes();
        a.v = d->v_mirror->data() + d->v_offset;
        a.v_cell = d->v_mirror->row_bytes();
        a.v_stream = size_t(d->stream_cells) * a.v_cell;
        a.v_head = d->v_head, a.v_dim = d->v_dim;
    }
    if (const auto* g = std::get_if<GraphLayer>(&source.cache)) {
        a.device = g->device;
        a.k = at(g->k, bases), a.k_cell = g->k.token_stride, a.k_head = g->k.head_stride;
        a.v = at(g->v, bases), a.v_cell = g->v.token_stride, a.v_head = g->v.head_stride, a.v_dim = g->v_dim;
    }
    a.q = at(source.q, bases);
    a.q_token = source.q.token_stride, a.q_head = source.q.head_stride;
    if (source.q_kept) {
        a.q_kept = at(*source.q_kept, bases);
        a.q_kept_token = source.q_kept->token_stride;
        a.first_kept = first_kept;
    }
    a.stream_tokens = source.q.stream_tokens;
    a.q_stream = source.q.stream_stride, a.out_stream = source.out.stream_stride;
    a.out = at(source.out, bases);
    a.out_token = source.out.token_stride, a.out_head = source.out.head_stride;
    return a;
}

namespace {

// Bytes from the first to behind the last float of (n_query, n_head, width).
size_t extent(const Placed& p, int64_t width, int64_t n_head, int64_t n_query) {
    return p.token_at(size_t(n_query - 1)) + size_t(n_head - 1) * p.head_stride + size_t(width) * sizeof(float);
}

// Picks the heads of the proofs of one layer out of Q or the output. False: they are no rows of equal distance.
bool pick(const Placed& p, int64_t width, int64_t n_head, const Batch& batch, size_t first_proof, size_t end_proof,
          GatherPlan::Picked& picked) {
    const size_t row = size_t(width) * sizeof(float);
    if (p.token_stride % row != 0 || p.head_stride % row != 0 || p.stream_stride % row != 0) return false;
    picked.from = p.offset;
    picked.width = width;
    picked.n_rows = static_cast<int64_t>(extent(p, width, n_head, batch.n_query) / row);
    for (size_t i = first_proof; i < end_proof; ++i) {
        const Batch::Proof& proof = batch.proofs[i];
        picked.rows.push_back(
            static_cast<int32_t>((p.token_at(size_t(proof.token)) + size_t(proof.head) * p.head_stride) / row));
    }
    return true;
}

} // namespace

namespace {
// Can the device convert the layer's queries into what is kept? Blocks no, and what may have to be rounded on the way neither.
bool converts_there(const LayerInfo& info) {
    return dtype_block(info.q_type) == 1 && !(info.q_type == DType::f32 && info.k_type == DType::f16);
}
} // namespace

bool BlockGather::make(size_t block, const LayerSources& sources, const Batch& batch, int64_t first_kept) {
    block_ = block;
    plan_ = {};
    v_new_.clear(), q_kept_.clear(), q_whole_.clear(), q_.clear(), out_.clear();
    kept_token_ = 0;
    for (size_t l = 0, first = 0, end = 0; l < sources.size(); ++l, first = end) {
        while (end < batch.proofs.size() && size_t(batch.proofs[end].layer) == l) ++end;
        if (!sources[l]) continue;
        const LayerSource& s = *sources[l];
        const LayerInfo& info = batch.layers[l].info;
        if (const DeviceLayer* d = s.device(); d && d->v_new && d->v_new->at.block == block) {
            const Placed& v = d->v_new->at;
            const size_t bytes = size_t(batch.n_query) * v.token_stride;
            const size_t to = plan_.room(bytes);
            plan_.whole.push_back({v.offset, to, bytes});
            v_new_.push_back({l, to});
        }
        const auto pick_into = [&](const Placed& p, int64_t width, std::vector<ProofPlace>& places) {
            if (p.block != block || first == end) return true;
            GatherPlan::Picked picked;
            if (!pick(p, width, info.n_head, batch, first, end, picked)) return false;
            picked.to = plan_.room((end - first) * size_t(width) * sizeof(float));
            for (size_t i = first; i < end; ++i)
                places.push_back({i, picked.to + (i - first) * size_t(width) * sizeof(float)});
            plan_.picked.push_back(std::move(picked));
            return true;
        };
        if (!pick_into(s.q, info.head_dim, q_) || !pick_into(s.out, info.head_dim_v, out_)) return false;
        if (s.q.block == block && converts_there(info)) kept_token_ += info.q_bytes();
    }
    if (first_kept >= batch.n_query) return true;
    size_t at = plan_.room(kept_token_ * size_t(batch.n_query - first_kept));
    for (size_t l = 0; l < sources.size(); ++l) {
        if (!sources[l] || sources[l]->q.block != block) continue;
        const LayerSource& s = *sources[l];
        const LayerInfo& info = batch.layers[l].info;
        if (!converts_there(info)) { // not every back end that says it can copies into blocks with strides
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

void BlockGather::apply(LayerSources& sources) const {
    for (const LayerPlace& p : v_new_) sources[p.layer]->device()->v_new->at.offset = p.at;
    for (const LayerPlace& p : q_whole_) sources[p.layer]->q.offset = p.at;
    for (const LayerPlace& p : q_kept_) sources[p.layer]->q_kept = Placed{block_, p.at, kept_token_, 0};
}

void BlockGather::arrived(const uint8_t* base, Batch& batch) const {
    for (const ProofPlace& p : q_) batch.proofs[p.proof].q = reinterpret_cast<const float*>(base + p.at);
    for (const ProofPlace& p : out_) batch.proofs[p.proof].out = reinterpret_cast<const float*>(base + p.at);
}

namespace {

// How many runs of consecutive cells these are.
size_t runs_of(const std::vector<int64_t>& cells) {
    size_t n = cells.empty() ? 0 : 1;
    for (size_t i = 1; i < cells.size(); ++i) n += cells[i] != cells[i - 1] + 1;
    return n;
}

struct FetchedLayer {
    DeviceLayer* layer;
    DeviceLayer::Fetched* fetched;
    const std::vector<int64_t>* cells;
};

// One token's rows behind the other's.
size_t by_token(const std::vector<FetchedLayer>& layers, std::vector<Fetch::Rows>& rows) {
    size_t token = 0;
    for (const FetchedLayer& l : layers) {
        l.fetched->at = token;
        token += l.layer->k_cell;
    }
    const size_t n = layers.front().cells->size();
    for (const FetchedLayer& l : layers) l.fetched->token = token;
    for (size_t i = 0; i < n; ++i) {
        for (const FetchedLayer& l : layers) {
            const size_t cell = l.layer->k_cell;
            rows.push_back({l.layer->k_cache, size_t((*l.cells)[i]) * cell, cell, i * token + l.fetched->at});
        }
    }
    return n * token;
}

// One layer's rows behind the other's.
size_t by_layer(const std::vector<FetchedLayer>& layers, std::vector<Fetch::Rows>& rows) {
    size_t at = 0;
    for (const FetchedLayer& l : layers) {
        const std::vector<int64_t>& cells = *l.cells;
        *l.fetched = {at, l.layer->k_cell};
        for (size_t i = 0; i < cells.size();) {
            size_t n = 1;
            while (i + n < cells.size() && cells[i + n] == cells[i] + static_cast<int64_t>(n)) ++n;
            rows.push_back({l.layer->k_cache, size_t(cells[i]) * l.layer->k_cell, n * l.layer->k_cell, at});
            at += n * l.layer->k_cell;
            i += n;
        }
    }
    return at;
}

} // namespace

size_t rows_to_fetch(LayerSources& sources, ggml_backend_dev_t device, const Batch& batch,
                     std::vector<Fetch::Rows>& rows) {
    std::vector<FetchedLayer> layers;
    size_t n_runs = 0;
    for (std::optional<LayerSource>& source : sources) {
        DeviceLayer* d = source ? source->device() : nullptr;
        auto* fetched = d ? std::get_if<DeviceLayer::Fetched>(&d->k_new) : nullptr;
        if (!fetched || d->device != device) continue;
        layers.push_back({d, fetched, &batch.groups[size_t(d->group)].written});
        n_runs += runs_of(*layers.back().cells);
    }
    if (layers.empty()) return 0;
    const bool few_tokens =
        size_t(batch.n_query) < n_runs; // fewer transfers than one a run, if layers of a token are one
    return few_tokens ? by_token(layers, rows) : by_layer(layers, rows);
}

} // namespace attnscope::capture
