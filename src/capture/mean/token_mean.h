// Has GPUs compute the mean over a token's rows, each over the layers whose keys it holds, and brings it from cells to columns.
#pragma once

#include "capture/collector.h"
#include "capture/device/device_layers.h"
#include "capture/mean/cuda/device_mean.h"
#include "capture/mean/operations_mean.h"

#include <memory>
#include <span>
#include <vector>

namespace attnscope::capture {

class TokenMean {
public:
    // Which rows: indices of layers, and query heads of each of them; empty: all. They weigh alike.
    void select(std::span<const int32_t> layers, std::span<const int32_t> heads);

    // The token's data lies staged on the devices of `fetches`. Does nothing where this model, cache, build or device does
    // not allow it: the batch's mean then stays empty.
    void start(int slot, const Batch& batch, const LayerSources& sources,
               std::span<const std::unique_ptr<Fetch>> fetches);
    // Blocks; sets the batch's mean.
    void finish(int slot, Batch& batch, const Collector& collector);
    bool busy(int slot) const { return !started_[slot].empty(); }
    // Blocks until the caches are not read any more for the slot.
    void wait(int slot);

private:
    // One device. A kernel of ours where there is one, else ggml's operations.
    struct Part {
        ggml_backend_dev_t device = nullptr;
        std::unique_ptr<DeviceMean> kernel;
        std::unique_ptr<OperationsMean> operations;
        bool opened = false;
    };
    void give_up(int slot);
    bool start_part(Part& part, int slot, const Batch& batch, const LayerSources& sources, const Fetch& fetch,
                    const std::vector<float>& weights);

    std::vector<std::unique_ptr<Part>> parts_; // one a device
    std::vector<int32_t> layers_, heads_;
    bool refused_ = false; // as it is for every token of this context
    std::vector<Part*> started_[DeviceMean::n_slots];
};

} // namespace attnscope::capture
