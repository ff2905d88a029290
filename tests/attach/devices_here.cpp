// Linked into a program, gives its ggml two devices that are not the CPU. Into the file that ATTACH_DEVICES_COPIES names goes a letter for
// every copy from a device to the host, in their order, where the engine's own come last of those that may: L, its own; C, others.
#include "support/made_device.h"

#include <cstdio>
#include <cstdlib>

namespace {

bool make_devices() {
    attnscope::test::MadeDevice& devices = attnscope::test::MadeDevice::steer();
    const char* path = std::getenv("ATTACH_DEVICES_COPIES");
    static std::FILE* const copies = path ? std::fopen(path, "w") : nullptr;
    if (!copies) return true;
    devices.streams.set_order(attnscope::test::MadeStreams::Order::engine_last);
    devices.watch_copies([](bool for_the_engine) {
        std::fputc(for_the_engine ? 'L' : 'C', copies);
        std::fflush(copies);
    });
    return true;
}

[[maybe_unused]] const bool known = make_devices();

} // namespace
