// What this process runs on, and what it holds there: main memory and the engine's devices.
#pragma once

#include <cstdint>
#include <string>

namespace attnscope::cli {

struct MemoryUse {
    int64_t host_bytes = 0;   // resident and not a file's; 0 where the system does not tell
    int64_t device_bytes = 0; // in use on all GPUs, by whomever; 0 without any
};

// Gives freed memory back to the system first, so that what is counted is what is held.
MemoryUse memory_use();

bool has_gpu();
std::string device_names(); // as the engine names them, GPUs first

} // namespace attnscope::cli
