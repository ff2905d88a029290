// Builds without CUDA.
#include "capture/mean/cuda/device_mean.h"

namespace attnscope::capture {

std::unique_ptr<DeviceMean> DeviceMean::create(int) {
    return nullptr;
}
bool DeviceMean::supports(int32_t, int32_t, int32_t, int32_t, float) {
    return false;
}

} // namespace attnscope::capture
