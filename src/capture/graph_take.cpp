// What a batch left in blocks and caches becomes frames' data and, for what lies on devices, the mirrors' newest cells.
#include "base/parallel_for.h"
#include "capture/device/read_back.h"
#include "capture/graph_state.h"

namespace attnscope::capture {

namespace {
// From so many on, what is done for each of a batch's tokens is done on several threads.
constexpr int64_t many_tokens = 64;
} // namespace

void GraphTap::take(Arriving& arriving) {
    State& state = *state_;
    Batch& batch = *arriving.batch;
    std::vector<const uint8_t*> bases;
    for (const Arriving::From& from : arriving.blocks) {
        const uint8_t* base = from.host;
        if (from.fetch) {
            from.fetch->wait(arriving.slot);
            base = from.fetch->block(arriving.slot);
        }
        if (from.gather) from.gather->arrived(base, batch);
        bases.push_back(base);
    }
    std::vector<const DeviceLayer*> on_device;
    for (const std::optional<LayerSource>& s : arriving.sources) {
        if (s && s->device()) on_device.push_back(s->device());
    }
    const auto store = [&](size_t i) {
        const Fetch* fetch = state.fetch_of(on_device[i]->device);
        store_new(*on_device[i], batch, bases, fetch ? fetch->rows(arriving.slot) : nullptr);
    };
    if (batch.n_query >= many_tokens)
        base::parallel_for(on_device.size(), store);
    else
        for (size_t i = 0; i < on_device.size(); ++i) store(i);
    std::vector<HostAttention> data;
    for (const std::optional<LayerSource>& s : arriving.sources) {
        data.push_back(s ? arrived_at(*s, bases, arriving.first_kept) : HostAttention());
    }
    collector_.take(batch, std::move(data));
    state.mean.finish(arriving.slot, batch, collector_);
}

// The nodes of the graph that is about to run say where the caches are: tensors of an earlier one may be gone.
bool GraphTap::read_back(ggml_backend_sched_t sched, int32_t group, const Ranges& cells) {
    State& state = *state_;
    const std::vector<LayerInfo>& layers = geometry().layers;
    if (layers.empty() || layers.size() != state.found.nodes.size()) return false;
    bool all = true;
    for (size_t l = 0; l < layers.size() && all; ++l) {
        const AttentionNode& n = state.found.nodes[l];
        if (!layers[l].captured() || layers[l].mask_group != group || !stores_keys(n) || is_host(n.k_cache)) continue;
        ggml_backend_dev_t device = ggml().backend_buft_get_device(ggml().backend_buffer_get_type(buffer(n.k_cache)));
        all = capture::read_back(n, backend_of(sched, device), cells, state.mirrors);
    }
    return all;
}

const uint8_t* GraphTap::mirrored_keys(int32_t layer) const {
    const std::vector<AttentionNode>& nodes = state_->found.nodes;
    if (layer < 0 || size_t(layer) >= nodes.size()) return nullptr;
    const auto mirror = state_->mirrors.find(nodes[size_t(layer)].k_cache);
    return mirror == state_->mirrors.end() ? nullptr : mirror->second.data();
}

} // namespace attnscope::capture
