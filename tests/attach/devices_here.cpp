// Linked into a program, gives its ggml two devices that are not the CPU.
#include "support/made_device.h"

namespace {
[[maybe_unused]] const bool known = (attnscope::test::MadeDevice::steer(), true);
}
