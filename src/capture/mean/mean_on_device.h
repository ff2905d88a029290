// What a device is asked for when the mean of a token's rows is wanted beside the model. Two makers: a CUDA kernel (KernelMean) and
// ggml's own operations (OperationsMean); a third, HostMean, works inside the graph and has steps of its own.
#pragma once

#include "capture/collector.h"
#include "capture/device/device_layers.h"
#include "capture/mean/mean_shape.h"

#include <span>
#include <vector>

namespace attnscope::capture {

// One token's data, staged on a device. Borrowed until the slot was waited for.
struct StagedToken {
    const Batch& batch;
    const LayerSources& sources;
    const Fetch& fetch;
    std::vector<size_t> layers; // places in `sources`, all on this device
    std::vector<float> weights; // one a row, in the order of these layers and their heads
};

// Of a layer on a device. Its sinks are the batch's.
MeanShape mean_shape(const LayerSource& source, const Batch::Layer& layer);

// Not thread-safe; a token a slot may be under way.
class MeanOnDevice {
public:
    static constexpr int n_slots = 2;
    enum class Started { yes, not_this_token, never };
    // (cells), one a group of layers that share a mask: the weighted sums of the rows' weights; cells that are not visible are 0,
    // a group none of whose layers count is empty. No group at all: the computation failed.
    using Sums = std::vector<std::span<const float>>;

    virtual ~MeanOnDevice() = default;
    virtual Started start(int slot, const StagedToken& token) = 0;
    // Blocks until the slot's sums are there; they stay until the slot's next start.
    virtual const Sums& wait(int slot) = 0;
};

} // namespace attnscope::capture
