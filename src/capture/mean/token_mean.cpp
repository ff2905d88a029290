#include "capture/mean/token_mean.h"

#include "capture/mean/mean_rows.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace attnscope::capture {

namespace {

// "CUDA0" -> 0; -1: no CUDA device.
int cuda_number(ggml_backend_dev_t device) {
    const char* name = ggml().backend_dev_name(device);
    return std::strncmp(name, "CUDA", 4) == 0 ? std::atoi(name + 4) : -1;
}

// For measurements: ggml's operations where a kernel of ours would do.
bool kernels_wanted() {
    const char* asked = std::getenv("ATTNSCOPE_MEAN");
    return !asked || std::strcmp(asked, "operations") != 0;
}

bool kernel_serves(const LayerInfo& info) {
    return DeviceMean::supports(static_cast<int32_t>(info.k_type), info.n_head, info.n_head_kv, info.head_dim,
                                info.max_bias);
}

MeanLayer kernel_layer(const LayerSource& s, const LayerInfo& info, int32_t group, const uint8_t* staged) {
    MeanLayer m;
    m.k = s.device()->k;
    m.k_cell = s.device()->k_cell;
    m.q = staged + s.q.offset;
    m.q_head = s.q.head_stride;
    m.n_head = info.n_head, m.n_head_kv = info.n_head_kv, m.head_dim = info.head_dim;
    m.scale = info.scale, m.softcap = info.softcap, m.post_scale = info.post_scale;
    m.group = group;
    m.sinks = info.sinks.empty() ? nullptr : info.sinks.data();
    return m;
}

OperationsMean::Layer operations_layer(const LayerSource& s, const Batch::Layer& layer, const ggml_tensor* staged) {
    const LayerInfo& info = layer.info;
    OperationsMean::Layer m;
    m.k_cache = s.device()->k_cache;
    m.k_offset = s.device()->k_offset, m.k_cell = s.device()->k_cell;
    m.n_cells = layer.n_cells;
    m.q_buffer = buffer(staged);
    m.q_offset = s.q.offset, m.q_head = s.q.head_stride; // what is staged begins where its buffer does
    m.n_head = info.n_head, m.n_head_kv = info.n_head_kv, m.head_dim = info.head_dim;
    m.scale = info.scale, m.softcap = info.softcap, m.post_scale = info.post_scale;
    m.group = layer.group;
    m.sinks = info.sinks.empty() ? nullptr : info.sinks.data();
    return m;
}

} // namespace

void TokenMean::select(std::span<const int32_t> layers, std::span<const int32_t> heads) {
    layers_.assign(layers.begin(), layers.end());
    heads_.assign(heads.begin(), heads.end());
}

void TokenMean::start(int slot, const Batch& batch, const LayerSources& sources,
                      std::span<const std::unique_ptr<Fetch>> fetches) {
    started_[slot].clear();
    if (refused_ || batch.n_query != 1) return;
    // Rows that only a CPU sees, or biased ones, are left to whoever has the whole frame.
    const auto reachable = [&](const LayerSource& s) {
        const DeviceLayer* d = s.device();
        return d && s.q.block == s.out.block && std::any_of(fetches.begin(), fetches.end(), [&](const auto& f) {
                   return f->device() == d->device && f->staged_block(slot);
               });
    };
    std::vector<float> weights;
    size_t n_chosen = 0;
    for (size_t l = 0; l < sources.size(); ++l) {
        const LayerInfo& info = batch.layers[l].info;
        if (!info.captured()) continue;
        if (!sources[l] || info.by_distance() || !reachable(*sources[l])) {
            refused_ = true;
            return;
        }
        for (int32_t h = 0; h < info.n_head; ++h) {
            const bool chosen = among(layers_, static_cast<int32_t>(l)) && among(heads_, h);
            weights.push_back(chosen ? 1.0f : 0.0f);
            n_chosen += chosen;
        }
    }
    if (n_chosen == 0) return;
    for (float& w : weights) w /= static_cast<float>(n_chosen);
    while (parts_.size() < fetches.size()) parts_.push_back(std::make_unique<Part>());
    for (size_t i = 0; i < fetches.size(); ++i) {
        parts_[i]->device = fetches[i]->device();
        if (!start_part(*parts_[i], slot, batch, sources, *fetches[i], weights)) {
            give_up(slot);
            return;
        }
    }
}

bool TokenMean::start_part(Part& part, int slot, const Batch& batch, const LayerSources& sources, const Fetch& fetch,
                           const std::vector<float>& all_weights) {
    std::vector<size_t> mine;
    std::vector<float> weights;
    size_t row = 0;
    bool kernel = kernels_wanted();
    for (size_t l = 0; l < sources.size(); ++l) {
        const LayerInfo& info = batch.layers[l].info;
        if (!info.captured()) continue;
        const auto first = all_weights.begin() + static_cast<ptrdiff_t>(row);
        row += size_t(info.n_head);
        if (sources[l]->device()->device != part.device) continue;
        if (std::all_of(first, first + info.n_head, [](float w) { return w == 0.0f; })) continue;
        mine.push_back(l);
        weights.insert(weights.end(), first, first + info.n_head);
        kernel = kernel && kernel_serves(info) && info.head_dim == batch.layers[mine.front()].info.head_dim;
    }
    if (mine.empty()) return true;
    if (!part.opened) {
        part.opened = true;
        if (kernel) part.kernel = DeviceMean::create(cuda_number(part.device));
        if (!part.kernel) part.operations = OperationsMean::create(part.device);
    }
    std::vector<MeanGroup> ranges;
    for (const Batch::Group& g : batch.groups) {
        if (g.cells[0].size() > size_t(mean_max_ranges)) kernel = false;
    }
    if (part.kernel && kernel && batch.groups.size() <= size_t(mean_max_groups)) {
        for (const Batch::Group& g : batch.groups) {
            MeanGroup m;
            for (const Range& r : g.cells[0]) {
                m.begin[m.n_ranges] = static_cast<int32_t>(r.begin);
                m.end[m.n_ranges++] = static_cast<int32_t>(r.end);
            }
            ranges.push_back(m);
        }
        std::vector<MeanLayer> layers;
        for (const size_t l : mine) {
            layers.push_back(
                kernel_layer(*sources[l], batch.layers[l].info, batch.layers[l].group, fetch.staged_block(slot)));
        }
        if (!part.kernel->start(slot, fetch.staged_event(), layers, ranges, weights)) return false;
    } else if (part.operations) {
        std::vector<OperationsMean::Layer> layers;
        for (const size_t l : mine)
            layers.push_back(operations_layer(*sources[l], batch.layers[l], fetch.staged(slot)));
        std::vector<std::span<const Range>> visible;
        for (const Batch::Group& g : batch.groups) visible.emplace_back(g.cells[0]);
        if (!part.operations->start(slot, fetch.staged_event(), layers, visible, weights)) {
            refused_ = true;
            return false;
        }
    } else {
        return false;
    }
    started_[slot].push_back(&part);
    return true;
}

void TokenMean::wait(int slot) {
    for (Part* part : started_[slot]) {
        if (part->operations)
            (void)part->operations->wait(slot);
        else
            (void)part->kernel->wait(slot);
    }
}

void TokenMean::give_up(int slot) {
    wait(slot);
    started_[slot].clear();
}

void TokenMean::finish(int slot, Batch& batch, const Collector& collector) {
    if (started_[slot].empty()) return;
    batch.mean.assign(size_t(batch.frames.front().index) + 1, 0.0f);
    const auto add = [&](size_t g, const float* by_cell, int64_t n) {
        add_cells(collector.cells(batch, g), batch.groups[g].cells[0], std::span(by_cell, size_t(n)), 1.0f, batch.mean);
    };
    for (Part* part : started_[slot]) {
        if (part->operations) {
            const auto& sums = part->operations->wait(slot);
            for (size_t g = 0; g < sums.size(); ++g) add(g, sums[g].data(), static_cast<int64_t>(sums[g].size()));
            continue;
        }
        const float* by_cell = part->kernel->wait(slot);
        if (!by_cell) {
            give_up(slot);
            batch.mean.clear();
            return;
        }
        const int64_t n = part->kernel->n_cells(slot);
        for (size_t g = 0; g < batch.groups.size(); ++g) add(g, by_cell + g * size_t(n), n);
    }
    started_[slot].clear();
}

} // namespace attnscope::capture
