#include "attach/inside/careful_bytes.h"

#include "attach/inside/structures.h"

#include <fcntl.h>
#include <unistd.h>

namespace attnscope::attach {

static_assert(tensor_layout.size == 336);

CarefulBytes::CarefulBytes() : memory_(open("/proc/self/mem", O_RDONLY | O_CLOEXEC)) {}
CarefulBytes::~CarefulBytes() {
    if (memory_ >= 0) close(memory_);
}

bool CarefulBytes::read(const void* from, void* to, size_t n) const {
    return reinterpret_cast<uintptr_t>(from) % sizeof(void*) == 0 && read_any(from, to, n);
}

bool CarefulBytes::read_any(const void* from, void* to, size_t n) const {
    const auto at = reinterpret_cast<uintptr_t>(from);
    if (memory_ < 0 || at > uintptr_t(INT64_MAX) - n) return false;
    return pread(memory_, to, n, static_cast<off_t>(at)) == static_cast<ssize_t>(n);
}

const uint8_t* CarefulBytes::of(const ggml_tensor* tensor) {
    const auto known = read_.find(tensor);
    if (known != read_.end()) return known->second.data();
    std::array<uint8_t, tensor_bytes> bytes{};
    if (!read(tensor, bytes.data(), bytes.size())) return nullptr;
    return read_.emplace(tensor, bytes).first->second.data();
}

} // namespace attnscope::attach
