#include "cli/machine.h"

#include <ggml-backend.h>

#include <cstdlib>
#include <fstream>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace attnscope::cli {

namespace {

bool is_gpu(ggml_backend_dev_t device) {
    return ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU;
}

// Linux tells it in /proc. Mapped files, such as the model's weights, are the system's to drop: they do not count.
int64_t host_bytes() {
    std::ifstream status("/proc/self/status");
    std::string line;
    int64_t kilobytes = 0;
    while (std::getline(status, line)) {
        if (line.rfind("RssAnon:", 0) == 0) kilobytes += std::atoll(line.c_str() + 8);
        if (line.rfind("RssShmem:", 0) == 0) kilobytes += std::atoll(line.c_str() + 9);
    }
    return kilobytes * 1024;
}

} // namespace

MemoryUse memory_use() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
    MemoryUse use;
    use.host_bytes = host_bytes();
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (!is_gpu(device)) continue;
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        use.device_bytes += static_cast<int64_t>(total - free);
    }
    return use;
}

bool has_gpu() {
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        if (is_gpu(ggml_backend_dev_get(i))) return true;
    }
    return false;
}

std::string device_names() {
    std::string gpus, others;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        std::string& names = is_gpu(device) ? gpus : others;
        names += (names.empty() ? "" : ", ") + std::string(ggml_backend_dev_description(device));
    }
    return gpus + (gpus.empty() || others.empty() ? "" : ", ") + others;
}

} // namespace attnscope::cli
