// Has GPUs compute the mean over a token's rows, each over the layers whose keys it holds, and brings it from cells to columns.
#pragma once

#include "capture/mean/mean_on_device.h"

#include <attnscope/row_selection.h>

#include <memory>
#include <span>
#include <vector>

namespace attnscope::capture {

class TokenMean {
public:
    // Which rows. They weigh alike.
    void select(const RowSelection& rows) { rows_ = rows; }

    // Starts the mean of a token whose data lies staged on the devices of `fetches`. Where this model, cache, build or
    // device does not allow it, nothing happens and the batch's mean stays empty.
    void start(int slot, const Batch& batch, const LayerSources& sources,
               std::span<const std::unique_ptr<Fetch>> fetches);
    // Blocks; sets the batch's mean.
    void finish(int slot, Batch& batch, const Collector& collector);
    bool busy(int slot) const { return !started_[slot].empty(); }
    // Blocks until the caches are not read any more for the slot.
    void wait(int slot);

private:
    // One device.
    struct Part {
        ggml_backend_dev_t device = nullptr;
        std::unique_ptr<MeanOnDevice> maker; // chosen with the first token; null then: nobody can
        bool opened = false;
    };
    void give_up(int slot);
    bool start_part(Part& part, int slot, const Batch& batch, const LayerSources& sources, const Fetch& fetch,
                    const std::vector<float>& weights);

    std::vector<std::unique_ptr<Part>> parts_; // one a device
    RowSelection rows_;
    bool refused_ = false; // as it is for every token of this context
    std::vector<Part*> started_[MeanOnDevice::n_slots];
};

} // namespace attnscope::capture
