// A copy in host memory of what the engine stored in a cache on a device, cell by cell as it was stored: with it, tokens are
// proven without reading the device's cache again.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

namespace attnscope::tap {

class Mirror {
public:
    // Rows have `row_bytes` bytes, always the same number; there are at least `n_cells`.
    void reserve(size_t row_bytes, int64_t n_cells) {
        row_bytes_ = row_bytes;
        if (bytes_.size() < row_bytes * size_t(n_cells)) bytes_.resize(row_bytes * size_t(n_cells));
    }
    uint8_t* row(int64_t cell) {
        if (bytes_.size() < row_bytes_ * size_t(cell + 1)) bytes_.resize(row_bytes_ * size_t(cell + 1));
        return bytes_.data() + row_bytes_ * size_t(cell);
    }
    const uint8_t* data() const { return bytes_.data(); }
    size_t row_bytes() const { return row_bytes_; }
    size_t size() const { return bytes_.size(); }

private:
    std::vector<uint8_t> bytes_;
    size_t row_bytes_ = 0;
};

// Of a context's caches on devices, by cache tensor.
using Mirrors = std::unordered_map<const ggml_tensor*, Mirror>;

} // namespace attnscope::tap
