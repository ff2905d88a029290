// Has a GPU compute the mean of a token's rows, and brings it from cells to columns.
#pragma once

#include "tap/collector.h"
#include "tap/cuda/device_mean.h"
#include "tap/device_layers.h"

#include <memory>

namespace attnscope::tap {

class TokenMean {
public:
    // Starts on the batch of one token that lies staged on its device; false where this model, cache or build does not allow it.
    bool start(int slot, const Batch& batch, const std::vector<LayerSource>& sources, const Fetch& fetch);
    // Blocks; sets the frame's mean.
    void finish(int slot, Batch& batch, const Collector& collector);

private:
    std::unique_ptr<DeviceMean> mean_;
    bool refused_ = false;
    bool started_[DeviceMean::n_slots] = {};
};

} // namespace attnscope::tap
