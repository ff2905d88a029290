// The mean by a kernel of ours on an NVIDIA GPU: what graphs and batches say, as numbers and device pointers for cuda/device_mean.h.
#pragma once

#include "capture/mean/cuda/device_mean.h"
#include "capture/mean/mean_on_device.h"

#include <memory>

namespace attnscope::capture {

class KernelMean : public MeanOnDevice {
public:
    // Null where this build or the device has no such kernel, or it does not serve these layers.
    static std::unique_ptr<MeanOnDevice> create(ggml_backend_dev_t device, const StagedToken& token);

    Started start(int slot, const StagedToken& token) override;
    const Sums& wait(int slot) override;

private:
    std::unique_ptr<DeviceMean> kernel_;
    size_t n_groups_[n_slots] = {};
    Sums sums_;
};

} // namespace attnscope::capture
