#include "tap/token_mean.h"

#include <cstdlib>
#include <cstring>

namespace attnscope::tap {

namespace {

// "CUDA0" -> 0; -1: no CUDA device.
int cuda_number(ggml_backend_dev_t device) {
    const char* name = ggml_backend_dev_name(device);
    return std::strncmp(name, "CUDA", 4) == 0 ? std::atoi(name + 4) : -1;
}

} // namespace

bool TokenMean::start(int slot, const Batch& batch, const std::vector<LayerSource>& sources, const Fetch& fetch) {
    started_[slot] = false;
    const uint8_t* staged = fetch.staged_block(slot);
    if (refused_ || batch.n_query != 1 || !staged) return false;
    std::vector<MeanLayer> layers;
    for (size_t l = 0; l < sources.size(); ++l) {
        const LayerSource& s = sources[l];
        const LayerInfo& info = batch.layers[l].info;
        if (!info.captured()) continue;
        if (!s.on_device || s.device != fetch.device() || s.q.block != s.out.block ||
            !DeviceMean::supports(static_cast<int32_t>(info.k_type), info.n_head, info.n_head_kv, info.head_dim, info.max_bias)) {
            refused_ = true; // the same for every token of this context
            return false;
        }
        MeanLayer m;
        m.k = s.host.k; // the cache's own address
        m.k_cell = s.host.k_cell;
        m.q = staged + s.q.offset;
        m.q_head = s.q.head_stride;
        m.n_head = info.n_head, m.n_head_kv = info.n_head_kv, m.head_dim = info.head_dim;
        m.scale = info.scale, m.softcap = info.softcap, m.post_scale = info.post_scale;
        m.group = batch.layers[l].group;
        m.sinks = info.sinks.empty() ? nullptr : info.sinks.data();
        layers.push_back(m);
    }
    std::vector<MeanGroup> groups;
    for (const Batch::Group& g : batch.groups) {
        MeanGroup m;
        if (g.cells[0].size() > size_t(mean_max_ranges)) return false;
        for (const Range& r : g.cells[0]) {
            m.begin[m.n_ranges] = static_cast<int32_t>(r.begin);
            m.end[m.n_ranges++] = static_cast<int32_t>(r.end);
        }
        groups.push_back(m);
    }
    if (!mean_) mean_ = DeviceMean::create(cuda_number(fetch.device()));
    refused_ = !mean_;
    started_[slot] = mean_ && mean_->start(slot, fetch.staged_event(), layers, groups, {});
    return started_[slot];
}

void TokenMean::finish(int slot, Batch& batch, const Collector& collector) {
    if (!started_[slot]) return;
    started_[slot] = false;
    const float* by_cell = mean_->wait(slot);
    if (!by_cell) return;
    const int32_t n = mean_->n_cells(slot);
    Frame& f = batch.frames[0];
    f.mean.assign(size_t(f.index) + 1, 0.0f);
    for (size_t g = 0; g < batch.groups.size(); ++g) {
        const CellView cells = collector.cells(batch, g);
        for (const Range& r : batch.groups[g].cells[0]) {
            for (int64_t cell = r.begin; cell < r.end && cell < n; ++cell) {
                const int64_t column = cells.column(cell);
                if (column >= 0 && column <= f.index) f.mean[size_t(column)] += by_cell[g * size_t(n) + size_t(cell)];
            }
        }
    }
}

} // namespace attnscope::tap
