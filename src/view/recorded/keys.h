// The keys of a recording in memory, in the order in which they are multiplied (attention/group_rows.h). A layer is read when it is
// first asked for, so that the first row of a long recording waits for keys only, and computes one layer while the next is read.
#pragma once

#include <attnscope/error.h>
#include <attnscope/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <vector>

namespace attnscope::view {

// One layer's keys of all columns, in chunks of chunk_columns.
class LayerTiles {
public:
    LayerTiles(const LayerInfo& info, int64_t n_columns);
    // `keys`: (n, n_head_kv, head_dim) as a recording has them, of columns from `begin` on, which is the first of a chunk.
    void put(const LayerInfo& info, int64_t begin, std::span<const uint8_t> keys);

    std::span<const uint8_t* const> chunks() const { return chunks_; }
    size_t head_stride() const { return head_stride_; } // from one KV head to the next, in a chunk
    size_t bytes() const { return n_bytes_; }
    // The key of one column and KV head: (head_dim) in the layer's k_type.
    void key(const LayerInfo& info, int32_t kv_head, int64_t column, uint8_t* out) const;

private:
    static constexpr std::align_val_t alignment{size_t(2) << 20}; // large pages; a tile starts on a cache line
    struct Free {
        void operator()(uint8_t* p) const { ::operator delete[](p, alignment); }
    };
    std::unique_ptr<uint8_t[], Free> bytes_;
    std::vector<const uint8_t*> chunks_;
    size_t chunk_bytes_ = 0;
    size_t head_stride_ = 0, n_bytes_ = 0;
};

// Thread-safe.
class RecordedKeys {
public:
    // Keys of columns [begin, end) of a layer that owns its keys. Called by as many threads as ask for layers.
    using Read = std::function<Result<std::vector<uint8_t>>(int32_t k_layer, int64_t begin, int64_t end)>;
    RecordedKeys(const Geometry& geometry, int64_t n, Read read);

    const Geometry& geometry() const { return geometry_; }
    int64_t size() const { return n_; } // columns
    // Reads them where they are not there yet. The error stays: a damaged layer is not read again and again.
    Result<const LayerTiles*> layer(int32_t k_layer);
    // Nothing where the layer was not read, or could not be.
    const LayerTiles* there(int32_t k_layer) const;
    size_t bytes() const; // of those that are there

private:
    Result<std::unique_ptr<const LayerTiles>> read(int32_t k_layer) const;

    struct Layer {
        std::once_flag once;
        std::unique_ptr<const LayerTiles> tiles;
        Result<void> status;
        std::atomic<bool> there{false};
    };
    const Geometry geometry_;
    const int64_t n_;
    const Read read_;
    std::vector<std::unique_ptr<Layer>> layers_;
};

} // namespace attnscope::view
