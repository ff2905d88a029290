#include "capture/mean/kernel_mean.h"

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

bool serves(const StagedToken& token) {
    const auto& layers = token.batch.layers;
    return std::all_of(token.layers.begin(), token.layers.end(), [&](size_t l) {
        const LayerInfo& info = layers[l].info;
        return info.head_dim == layers[token.layers.front()].info.head_dim &&
               DeviceMean::supports(static_cast<int32_t>(info.k_type), info.n_head, info.n_head_kv, info.head_dim,
                                    info.max_bias);
    });
}

} // namespace

std::unique_ptr<MeanOnDevice> KernelMean::create(ggml_backend_dev_t device, const StagedToken& token) {
    if (!serves(token)) return nullptr;
    auto mean = std::make_unique<KernelMean>();
    mean->kernel_ = DeviceMean::create(cuda_number(device));
    if (!mean->kernel_) return nullptr;
    return mean;
}

MeanOnDevice::Started KernelMean::start(int slot, const StagedToken& token) {
    const auto& groups = token.batch.groups;
    if (!serves(token) || groups.size() > size_t(mean_max_groups)) return Started::not_this_token;
    std::vector<MeanGroup> visible;
    for (const Batch::Group& g : groups) {
        if (g.cells[0].size() > size_t(mean_max_ranges)) return Started::not_this_token;
        MeanGroup& m = visible.emplace_back();
        for (const Range& r : g.cells[0]) {
            m.begin[m.n_ranges] = static_cast<int32_t>(r.begin);
            m.end[m.n_ranges++] = static_cast<int32_t>(r.end);
        }
    }
    std::vector<MeanLayer> layers;
    for (const size_t l : token.layers) {
        const LayerSource& source = *token.sources[l];
        MeanLayer layer{mean_shape(source, token.batch.layers[l])};
        layer.k = source.device()->k;
        layer.q = token.fetch.staged_block(slot) + source.q.offset;
        layers.push_back(layer);
    }
    n_groups_[slot] = groups.size();
    return kernel_->start(slot, token.fetch.staged_event(), layers, visible, token.weights) ? Started::yes
                                                                                            : Started::not_this_token;
}

const MeanOnDevice::Sums& KernelMean::wait(int slot) {
    sums_.clear();
    const float* by_cell = kernel_->wait(slot);
    if (!by_cell) return sums_;
    const auto n = size_t(kernel_->n_cells(slot));
    for (size_t g = 0; g < n_groups_[slot]; ++g) sums_.emplace_back(by_cell + g * n, n);
    return sums_;
}

} // namespace attnscope::capture
