// A copy in host memory of a cache that lies on a device, cell by cell, in the cache's own type. With it tokens are
// proven without reading the device's cache again.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

namespace attnscope::capture {

// Never moves once reserved: proofs read it on other threads while later cells are written.
class Mirror {
public:
    // Room for every cell of the cache, `row_bytes` each. Memory that is not written takes no room. False: no memory.
    bool reserve(size_t row_bytes, int64_t n_cells);
    uint8_t* row(int64_t cell) { return bytes_.get() + row_bytes_ * size_t(cell); }
    const uint8_t* data() const { return bytes_.get(); }
    size_t row_bytes() const { return row_bytes_; }

private:
    struct Free {
        void operator()(uint8_t* p) const;
    };
    std::unique_ptr<uint8_t, Free> bytes_;
    size_t row_bytes_ = 0, size_ = 0;
};

// Of a context's caches on devices, by cache tensor.
using Mirrors = std::unordered_map<const ggml_tensor*, Mirror>;

} // namespace attnscope::capture
