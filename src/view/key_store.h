// The keys of a session in memory, as group_rows reads them.
#pragma once

#include "attention/group_rows.h"

#include <attnscope/attention_view.h>

#include <memory>
#include <new>
#include <vector>

namespace attnscope::view {

class ChunkedKeys final : public KeyStore {
public:
    ChunkedKeys(const Geometry& geometry, int64_t n_ctx);

    Result<void> append(const Frame& frame) override;
    void truncate(int64_t n) override;
    int64_t size() const override { return n_; }
    size_t bytes() const override { return chunks_.size() * chunk_bytes_; }
    const Geometry& geometry() const override { return geometry_; }

    // Brings keys that were appended since to their places in the chunks, where they are read. Not while they are read.
    void settle() const;
    std::span<const uint8_t* const> chunks() const { return starts_; }
    // Of the keys of `layer` (which may use another layer's) and KV head `head` in a chunk.
    size_t offset(int32_t layer, int32_t head) const;
    std::span<const int32_t> positions() const { return positions_; }
    // Why rows of a layer cannot be computed, or how.
    const Result<RowsPlan>& plan(int32_t layer, bool batched) const {
        const Layer& l = layers_[static_cast<size_t>(layer)];
        return batched ? l.batched_plan : l.plan;
    }

private:
    struct Layer {
        Result<RowsPlan> plan, batched_plan;
        size_t offset = 0; // in a chunk
        size_t head_bytes = 0;
    };
    // A chunk starts on a cache line, and so does every tile whose size is a multiple of one.
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(uint8_t* p) const { ::operator delete[](p, alignment); }
    };
    using Chunk = std::unique_ptr<uint8_t[], Free>;

    Geometry geometry_;
    int64_t n_ctx_;
    int64_t n_ = 0;
    size_t chunk_bytes_ = 0;
    std::vector<Layer> layers_;
    std::vector<Chunk> chunks_;
    std::vector<const uint8_t*> starts_; // of chunks_
    std::vector<int32_t> positions_;     // of the columns
    // Keys of columns [n_settled_, n_), as their frames brought them. In tiles neighbours of a key lie a row apart, so a column
    // alone takes 4 to 12 us of the decode thread, which need not be where nobody reads it.
    mutable std::vector<uint8_t> waiting_;
    mutable int64_t n_settled_ = 0;
};

} // namespace attnscope::view
