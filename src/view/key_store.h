// The keys of a session in memory, as group_rows reads them.
#pragma once

#include "attention/group_rows.h"
#include "view/key_reader.h"

#include <attnscope/attention_view.h>

#include <memory>
#include <new>
#include <vector>

namespace attnscope::view {

class ChunkedKeys final : public KeyStore, public KeyReader {
public:
    ChunkedKeys(const Geometry& geometry, int64_t n_ctx);

    Result<void> append(const Frame& frame) override;
    void truncate(int64_t n) override;
    Result<std::unique_ptr<KeyStore>> copy(int64_t n) const override;
    int64_t size() const override { return n_; }
    size_t bytes() const override { return chunks_.size() * chunk_bytes_; }
    const Geometry& geometry() const override { return geometry_; }

    Result<Frame> frame(int64_t index) override;

    // Not while keys are read.
    Result<void> prepare(int64_t) override {
        settle();
        return {};
    }
    Result<LayerKeys> layer_keys(int32_t layer, Range, KeyBuffer&) override;
    std::span<const int32_t> positions() const override { return positions_; }

private:
    // Brings keys that were appended since to their places in the chunks, where they are read.
    void settle();

    struct Layer {
        size_t offset = 0; // in a chunk
        size_t head_bytes = 0;
    };
    // A chunk starts on a cache line, and so does every tile whose size is a multiple of one.
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(uint8_t* p) const { ::operator delete[](p, alignment); }
    };
    struct Chunk {
        std::shared_ptr<uint8_t[]> memory;
        mutable bool shared = false; // with a copy, on whatever thread: never written to again
    };
    Chunk new_chunk() const {
        return {std::shared_ptr<uint8_t[]>(static_cast<uint8_t*>(::operator new[](chunk_bytes_, alignment)), Free{})};
    }
    void make_own(size_t chunk);

    Geometry geometry_;
    int64_t n_ctx_;
    int64_t n_ = 0;
    size_t chunk_bytes_ = 0;
    std::vector<Layer> layers_;
    std::vector<Chunk> chunks_;
    std::vector<const uint8_t*> starts_; // of chunks_
    std::vector<int32_t> positions_;     // of the columns
    // Keys of columns [n_settled_, n_), as their frames brought them. In tiles neighbouring elements of a key lie a row
    // apart, so to write one column alone costs 4 to 12 us of the decode thread; it is left until somebody reads.
    std::vector<uint8_t> waiting_;
    int64_t n_settled_ = 0;
};

} // namespace attnscope::view
