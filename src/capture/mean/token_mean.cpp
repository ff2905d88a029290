#include "capture/mean/token_mean.h"

#include "capture/mean/kernel_mean.h"
#include "capture/mean/mean_rows.h"
#include "capture/mean/operations_mean.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace attnscope::capture {

namespace {

// For measurements: ggml's operations where a kernel of ours would do.
bool kernels_wanted() {
    const char* asked = std::getenv("ATTNSCOPE_MEAN");
    return !asked || std::strcmp(asked, "operations") != 0;
}

} // namespace

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
            const bool chosen = among(rows_.layers, static_cast<int32_t>(l)) && among(rows_.heads, h);
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
    StagedToken token{batch, sources, fetch, {}, {}};
    size_t row = 0;
    for (size_t l = 0; l < sources.size(); ++l) {
        const LayerInfo& info = batch.layers[l].info;
        if (!info.captured()) continue;
        const auto first = all_weights.begin() + static_cast<ptrdiff_t>(row);
        row += size_t(info.n_head);
        if (sources[l]->device()->device != part.device) continue;
        if (std::all_of(first, first + info.n_head, [](float w) { return w == 0.0f; })) continue;
        token.layers.push_back(l);
        token.weights.insert(token.weights.end(), first, first + info.n_head);
    }
    if (token.layers.empty()) return true;
    if (!part.opened) {
        part.opened = true;
        if (kernels_wanted()) part.maker = KernelMean::create(part.device, token);
        if (!part.maker) part.maker = OperationsMean::create(part.device);
    }
    if (!part.maker) return false;
    const MeanOnDevice::Started started = part.maker->start(slot, token);
    if (started == MeanOnDevice::Started::never) refused_ = true;
    if (started != MeanOnDevice::Started::yes) return false;
    started_[slot].push_back(&part);
    return true;
}

void TokenMean::wait(int slot) {
    for (Part* part : started_[slot]) (void)part->maker->wait(slot);
}

void TokenMean::give_up(int slot) {
    wait(slot);
    started_[slot].clear();
}

void TokenMean::finish(int slot, Batch& batch, const Collector& collector) {
    if (started_[slot].empty()) return;
    batch.mean.assign(size_t(batch.frames.front().index) + 1, 0.0f);
    for (Part* part : started_[slot]) {
        const MeanOnDevice::Sums& sums = part->maker->wait(slot);
        if (sums.empty()) {
            give_up(slot);
            batch.mean.clear();
            return;
        }
        for (size_t g = 0; g < sums.size(); ++g)
            add_cells(collector.cells(batch, g), batch.groups[g].cells[0], sums[g], 1.0f, batch.mean);
    }
    started_[slot].clear();
}

} // namespace attnscope::capture
