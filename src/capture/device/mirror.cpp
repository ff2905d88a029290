#include "capture/device/mirror.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace attnscope::capture {

namespace {
constexpr size_t huge_page = size_t(2) << 20;
}

void Mirror::Free::operator()(uint8_t* p) const {
    std::free(p);
}

bool Mirror::reserve(size_t row_bytes, int64_t n_cells) {
    const size_t size = (row_bytes * size_t(n_cells) + huge_page - 1) / huge_page * huge_page;
    row_bytes_ = row_bytes;
    if (size <= size_) return true;
    bytes_.reset(static_cast<uint8_t*>(std::aligned_alloc(huge_page, size)));
    size_ = bytes_ ? size : 0;
#if defined(__linux__)
    // One head of one layer is read with a stride of a row: with small pages most of the time would go into finding them.
    if (bytes_) madvise(bytes_.get(), size, MADV_HUGEPAGE);
#endif
    return bytes_ != nullptr;
}

} // namespace attnscope::capture
