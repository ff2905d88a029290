#include "capture/mean/operations_mean.h"

#include <algorithm>
#include <limits>

namespace attnscope::capture {

std::unique_ptr<OperationsMean> OperationsMean::create(ggml_backend_dev_t device) {
    auto mean = std::make_unique<OperationsMean>();
    mean->device_ = device;
    mean->backend_.reset(ggml().backend_dev_init(device, nullptr));
    if (!mean->backend_) return nullptr;
    const ggml_backend_dev_caps caps = device_caps(device);
    for (Slot& s : mean->slots_) {
        if (caps.async && caps.events) s.done.reset(ggml().backend_event_new(device));
        s.memory.reset(ggml().gallocr_new(ggml().backend_dev_buffer_type(device)));
    }
    return mean;
}

OperationsMean::~OperationsMean() {
    if (backend_) ggml().backend_synchronize(backend_.get());
}

namespace {

// The graph of one token, while it is built.
struct Build {
    ggml_context* ctx = nullptr;
    ggml_backend_t backend = nullptr;
    bool possible = true;

    ggml_tensor* node(ggml_tensor* t) {
        possible = possible && ggml().backend_supports_op(backend, t);
        return t;
    }
    ggml_tensor* input(int64_t n, int64_t m = 1) {
        ggml_tensor* t = ggml().new_tensor_2d(ctx, GGML_TYPE_F32, n, m);
        ggml().set_input(t);
        return t;
    }
    // Weights of a row at each cell, (n_cells, n_head), of one layer.
    ggml_tensor* rows(const OperationsMean::Layer& l, ggml_tensor* mask, ggml_tensor* sinks) {
        const int64_t gqa = l.n_head / l.n_head_kv;
        const size_t k_head = row_bytes(type(l.k_cache), l.head_dim);
        // A view: back ends clear what lies behind a quantised tensor that owns its memory.
        ggml_tensor* k =
            ggml().view_3d(ctx, l.k_cache, l.head_dim, l.n_cells, l.n_head_kv, l.k_cell, k_head, l.k_offset);
        possible = possible && ggml().backend_view_init(k) == GGML_STATUS_SUCCESS;
        ggml_tensor* q = ggml().new_tensor_3d(ctx, GGML_TYPE_F32, l.head_dim, gqa, l.n_head_kv);
        set_nb(q, 1, l.q_head);
        set_nb(q, 2, l.q_head * size_t(gqa));
        set_nb(q, 3, l.q_head * size_t(l.n_head));
        ggml().backend_tensor_alloc(l.q_buffer, q,
                                    static_cast<uint8_t*>(ggml().backend_buffer_get_base(l.q_buffer)) + l.q_offset);
        // The heads that share a KV head are the columns of one product: K is read once for them.
        ggml_tensor* s = ggml().mul_mat(ctx, k, q);
        ggml().prec_set_acc(s, GGML_PREC_F32);
        node(s);
        float scale = l.scale;
        if (l.softcap > 0) {
            s = node(ggml().scale(ctx, s, l.scale / l.softcap));
            s = node(ggml().tanh(ctx, s));
            scale = l.softcap;
        }
        s = ggml().reshape_3d(ctx, s, l.n_cells, 1, l.n_head);
        s = ggml().soft_max_ext_inplace(ctx, s, mask, scale * l.post_scale, 0.0f);
        if (sinks) ggml().soft_max_add_sinks(s, sinks);
        return ggml().reshape_2d(ctx, node(s), l.n_cells, l.n_head);
    }
    // (n_cells, 1): the weighted sum over heads.
    ggml_tensor* weigh(ggml_tensor* rows, ggml_tensor* weights) {
        ggml_tensor* product = ggml().out_prod(ctx, rows, ggml().reshape_2d(ctx, weights, 1, ne(rows, 1)));
        if (ggml().backend_supports_op(backend, product)) return product;
        ggml_tensor* by_head = node(ggml().cont(ctx, ggml().transpose(ctx, rows)));
        product = ggml().mul_mat(ctx, by_head, weights);
        ggml().prec_set_acc(product, GGML_PREC_F32);
        return node(product);
    }
};

} // namespace

bool OperationsMean::start(int index, ggml_backend_event_t ready, const std::vector<Layer>& layers,
                           const std::vector<std::span<const Range>>& visible, const std::vector<float>& weights) {
    Slot& slot = slots_[index];
    const size_t n_tensors = 24 * layers.size() + 2 * visible.size() + 8;
    slot.ctx.reset(ggml().init(
        {ggml().tensor_overhead() * n_tensors + ggml().graph_overhead_custom(n_tensors, false), nullptr, true}));
    Build b{slot.ctx.get(), backend_.get()};
    ggml_cgraph* graph = ggml().new_graph_custom(b.ctx, n_tensors, false);

    std::vector<ggml_tensor*> masks(visible.size(), nullptr), sums(visible.size(), nullptr);
    struct Upload {
        ggml_tensor* to;
        const float* from;
    };
    std::vector<Upload> uploads;
    struct Added {
        size_t group;
        int32_t n_head;
        const float* weights;
        ggml_tensor* rows; // (n_cells, n_head)
    };
    std::vector<Added> added;
    slot.masks.assign(visible.size(), {});
    slot.results.assign(visible.size(), {});
    slot.weights = weights;
    size_t row = 0;
    for (const Layer& l : layers) {
        const float* w = slot.weights.data() + row;
        row += size_t(l.n_head);
        if (std::all_of(w, w + l.n_head, [](float x) { return x == 0.0f; })) continue;
        const auto g = size_t(l.group);
        if (!masks[g]) {
            slot.masks[g].assign(size_t(l.n_cells), -std::numeric_limits<float>::infinity());
            for (const Range& r : visible[g]) {
                const int64_t end = std::min(r.end, l.n_cells);
                for (int64_t c = r.begin; c < end; ++c) slot.masks[g][size_t(c)] = 0;
            }
            masks[g] = b.input(l.n_cells);
            uploads.push_back({masks[g], slot.masks[g].data()});
        }
        if (ne(masks[g], 0) != l.n_cells) return false;
        ggml_tensor* sinks = nullptr;
        if (l.sinks) {
            sinks = b.input(l.n_head);
            uploads.push_back({sinks, l.sinks});
        }
        ggml_tensor* rows = b.rows(l, masks[g], sinks);
        // Layers whose heads weigh alike are added first and weighed once.
        auto alike = std::find_if(added.begin(), added.end(), [&](const Added& a) {
            return a.group == g && a.n_head == l.n_head && std::equal(w, w + l.n_head, a.weights);
        });
        if (alike == added.end())
            added.push_back({g, l.n_head, w, rows});
        else
            alike->rows = b.node(ggml().add_inplace(b.ctx, alike->rows, rows));
    }
    for (const Added& a : added) {
        ggml_tensor* share = b.input(a.n_head);
        uploads.push_back({share, a.weights});
        ggml_tensor* sum = b.weigh(a.rows, share);
        sums[a.group] = sums[a.group] ? b.node(ggml().add(b.ctx, sums[a.group], sum)) : sum;
    }
    for (ggml_tensor* sum : sums) {
        if (!sum) continue;
        ggml().set_output(sum);
        ggml().build_forward_expand(graph, sum);
    }
    if (!b.possible || !ggml().gallocr_alloc_graph(slot.memory.get(), graph)) return false;
    if (ready) ggml().backend_event_wait(backend_.get(), ready);
    for (const Upload& u : uploads) ggml().backend_tensor_set_async(backend_.get(), u.to, u.from, 0, nbytes(u.to));
    if (ggml().backend_graph_compute_async(backend_.get(), graph) != GGML_STATUS_SUCCESS) return false;
    for (size_t g = 0; g < sums.size(); ++g) {
        if (!sums[g]) continue;
        slot.results[g].resize(size_t(ne(sums[g], 0)));
        ggml().backend_tensor_get_async(backend_.get(), sums[g], slot.results[g].data(), 0, nbytes(sums[g]));
    }
    if (slot.done) ggml().backend_event_record(slot.done.get(), backend_.get());
    return true;
}

const MeanOnDevice::Sums& OperationsMean::wait(int index) {
    Slot& slot = slots_[index];
    if (slot.done)
        ggml().backend_event_synchronize(slot.done.get());
    else
        ggml().backend_synchronize(backend_.get());
    sums_.assign(slot.results.begin(), slot.results.end());
    return sums_;
}

MeanOnDevice::Started OperationsMean::start(int slot, const StagedToken& token) {
    std::vector<Layer> layers;
    for (const size_t l : token.layers) {
        const LayerSource& source = *token.sources[l];
        Layer layer{mean_shape(source, token.batch.layers[l])};
        layer.k_cache = source.device()->k_cache;
        layer.k_offset = source.device()->k_offset;
        layer.n_cells = token.batch.layers[l].n_cells;
        layer.q_buffer = buffer(token.fetch.staged(slot));
        layer.q_offset = source.q.offset; // what is staged begins where its buffer does
        layers.push_back(layer);
    }
    std::vector<std::span<const Range>> visible;
    for (const Batch::Group& g : token.batch.groups) visible.emplace_back(g.cells[0]);
    const bool started = start(slot, token.fetch.staged_event(), layers, visible, token.weights);
    return started ? Started::yes : Started::never; // the device stays as it is
}

} // namespace attnscope::capture
