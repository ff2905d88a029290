// Builds without CUDA.
#include "tap/cuda/device_mean.h"

namespace attnscope::tap {

std::unique_ptr<DeviceMean> DeviceMean::create(int) { return nullptr; }
bool DeviceMean::supports(int32_t, int32_t, int32_t, int32_t, float) { return false; }

} // namespace attnscope::tap
