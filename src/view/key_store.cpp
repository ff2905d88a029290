#include "view/key_store.h"

#include "attention/tile_keys.h"

#include <algorithm>
#include <new>
#include <string>

namespace attnscope {

Result<std::unique_ptr<KeyStore>> KeyStore::create(const Geometry& geometry, int64_t n_ctx) {
    if (n_ctx <= 0) return Error{ErrorKind::invalid_argument, "n_ctx must be positive"};
    if (auto ok = view::check_layers(geometry); !ok) return ok.error();
    try {
        return std::unique_ptr<KeyStore>(std::make_unique<view::ChunkedKeys>(geometry, n_ctx));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for the keys of live attention"};
    }
}

} // namespace attnscope

namespace attnscope::view {

ChunkedKeys::ChunkedKeys(const Geometry& geometry, int64_t n_ctx)
    : KeyReader(geometry), geometry_(geometry), n_ctx_(n_ctx) {
    size_t at = 0;
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        const LayerInfo& info = geometry_.layers[static_cast<size_t>(i)];
        layers_.push_back({at, info.captured() ? dtype_row_bytes(info.k_type, info.head_dim) : 0});
        if (geometry_.owns_k(i)) at += info.k_bytes() * static_cast<size_t>(attention::chunk_columns);
    }
    chunk_bytes_ = std::max<size_t>(at, 1);
    waiting_.resize(static_cast<size_t>(attention::tile_columns) * geometry_.k_bytes());
}

Result<LayerKeys> ChunkedKeys::layer_keys(int32_t layer, Range, KeyBuffer&) {
    const Layer& owner = layers_[static_cast<size_t>(geometry_.layers[static_cast<size_t>(layer)].k_layer)];
    return LayerKeys{starts_, owner.offset, owner.head_bytes * static_cast<size_t>(attention::chunk_columns)};
}

Result<Frame> ChunkedKeys::frame(int64_t index) {
    return Error{ErrorKind::not_found,
                 "the memory of a session keeps no queries: frame " + std::to_string(index) + " must be given"};
}

Result<void> ChunkedKeys::append(const Frame& frame) {
    const auto refuse = [](std::string message) { return Error{ErrorKind::invalid_argument, std::move(message)}; };
    if (frame.index != n_)
        return refuse("frame " + std::to_string(frame.index) + " comes where frame " + std::to_string(n_) + " belongs");
    if (n_ >= n_ctx_) return refuse("the keys of all " + std::to_string(n_ctx_) + " positions are held already");
    if (frame.k.size() != geometry_.k_bytes()) {
        return refuse("frame " + std::to_string(frame.index) + " brings " + std::to_string(frame.k.size()) +
                      " bytes of keys where " + std::to_string(geometry_.k_bytes()) + " belong");
    }
    const auto chunk = static_cast<size_t>(n_ / attention::chunk_columns);
    try {
        if (chunk == chunks_.size()) {
            starts_.reserve(chunk + 1);
            // Not cleared: what columns to come hold is computed with and dropped, and touching it all would stall a token.
            chunks_.push_back(new_chunk());
            starts_.push_back(chunks_.back().memory.get());
        } else {
            make_own(chunk);
        }
        positions_.push_back(frame.position); // nothing can fail after it
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for the keys of " + std::to_string(n_ + 1) + " positions"};
    }
    std::copy(frame.k.begin(), frame.k.end(),
              waiting_.begin() + (n_ - n_settled_) * static_cast<int64_t>(frame.k.size()));
    ++n_;
    if (n_ - n_settled_ == attention::tile_columns) settle();
    return {};
}

void ChunkedKeys::make_own(size_t chunk) {
    Chunk& there = chunks_[chunk];
    if (!there.shared) return;
    Chunk own = new_chunk();
    std::copy(there.memory.get(), there.memory.get() + chunk_bytes_, own.memory.get());
    there = std::move(own);
    starts_[chunk] = there.memory.get();
}

void ChunkedKeys::settle() {
    size_t in_frame = 0;
    for (int32_t i = 0; n_settled_ < n_ && i < geometry_.n_layer(); ++i) {
        if (!geometry_.owns_k(i)) continue;
        const LayerInfo& info = geometry_.layers[static_cast<size_t>(i)];
        const Layer& layer = layers_[static_cast<size_t>(i)];
        const size_t head_stride = layer.head_bytes * static_cast<size_t>(attention::chunk_columns);
        for (int32_t head = 0; head < info.n_head_kv; ++head, in_frame += layer.head_bytes) {
            for (int64_t n = n_settled_; n < n_;) {
                const int64_t column = n % attention::chunk_columns,
                              count = std::min(n_ - n, attention::chunk_columns - column);
                const uint8_t* const k =
                    waiting_.data() + static_cast<size_t>(n - n_settled_) * geometry_.k_bytes() + in_frame;
                uint8_t* const to =
                    chunks_[static_cast<size_t>(n / attention::chunk_columns)].memory.get() + layer.offset;
                attention::put_keys(info, k, geometry_.k_bytes(), column, count,
                                    to + static_cast<size_t>(head) * head_stride);
                n += count;
            }
        }
    }
    n_settled_ = n_;
}

Result<std::unique_ptr<KeyStore>> ChunkedKeys::copy(int64_t n) const {
    n = std::clamp<int64_t>(n, 0, n_);
    try {
        auto out = std::make_unique<ChunkedKeys>(geometry_, n_ctx_);
        for (int64_t begin = 0; begin < n; begin += attention::chunk_columns) {
            const auto chunk = static_cast<size_t>(begin / attention::chunk_columns);
            const bool goes_on = begin + attention::chunk_columns > std::min(n, n_settled_); // in this chunk
            if (!goes_on) chunks_[chunk].shared = true;
            out->chunks_.push_back(chunks_[chunk]);
            out->chunks_.back().shared = true;
            out->starts_.push_back(starts_[chunk]);
            if (goes_on) out->make_own(chunk);
        }
        out->positions_.assign(positions_.begin(), positions_.begin() + n);
        out->waiting_ = waiting_;
        out->n_ = n;
        out->n_settled_ = std::min(n, n_settled_);
        return std::unique_ptr<KeyStore>(std::move(out));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for a copy of the keys of " + std::to_string(n) + " positions"};
    }
}

void ChunkedKeys::truncate(int64_t n) {
    n_ = std::clamp<int64_t>(n, 0, n_);
    n_settled_ = std::min(n_settled_, n_);
    positions_.resize(static_cast<size_t>(n_));
}

} // namespace attnscope::view
