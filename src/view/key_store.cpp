#include "view/key_store.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

namespace attnscope {

Result<std::unique_ptr<KeyStore>> KeyStore::create(const Geometry& geometry, int64_t n_ctx) {
    if (n_ctx <= 0) return Error{ErrorKind::invalid_argument, "n_ctx must be positive"};
    for (int32_t i = 0; i < geometry.n_layer(); ++i) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(i)];
        if (!layer.captured()) continue;
        const std::string name = "layer " + std::to_string(layer.layer);
        if (layer.k_layer < 0 || layer.k_layer >= geometry.n_layer() || !geometry.owns_k(layer.k_layer))
            return Error{ErrorKind::invalid_argument, name + " uses the keys of a layer that has none"};
        const LayerInfo& owner = geometry.layers[static_cast<size_t>(layer.k_layer)];
        if (owner.n_head_kv != layer.n_head_kv || owner.head_dim != layer.head_dim || owner.k_type != layer.k_type)
            return Error{ErrorKind::invalid_argument, name + " and the layer whose keys it uses have different shapes"};
        if (layer.mask_group < 0 || layer.mask_group >= geometry.n_mask_groups)
            return Error{ErrorKind::invalid_argument, name + " has no mask"};
        if (const auto plan = plan_layer(layer, false); !plan && plan.error().kind == ErrorKind::invalid_argument)
            return Error{plan.error().kind, name + ": " + plan.error().message};
    }
    try {
        return std::unique_ptr<KeyStore>(std::make_unique<view::ChunkedKeys>(geometry, n_ctx));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for the keys of live attention"};
    }
}

} // namespace attnscope

namespace attnscope::view {

namespace {

// Column `column` of a run of tiles of `dim` elements each.
template <class Element>
void put_column(uint8_t* tiles, int64_t column, const uint8_t* key, int32_t dim) {
    constexpr size_t size = sizeof(Element);
    constexpr size_t row = static_cast<size_t>(tile_columns) * size;
    uint8_t* to = tiles + static_cast<size_t>(column / tile_columns) * static_cast<size_t>(dim) * row +
                  static_cast<size_t>(column % tile_columns) * size;
    for (int32_t d = 0; d < dim; ++d) {
        std::memcpy(to, key, size);
        to += row;
        key += size;
    }
}

} // namespace

ChunkedKeys::ChunkedKeys(const Geometry& geometry, int64_t n_ctx) : geometry_(geometry), n_ctx_(n_ctx) {
    size_t at = 0;
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        const LayerInfo& info = geometry_.layers[static_cast<size_t>(i)];
        // A type that nothing multiplies with is kept all the same: the tap may deliver it.
        Layer layer{plan_layer(info, false), plan_layer(info, true), at,
                    info.captured() ? dtype_row_bytes(info.k_type, info.head_dim) : 0};
        if (geometry_.owns_k(i)) at += info.k_bytes() * static_cast<size_t>(chunk_columns);
        layers_.push_back(std::move(layer));
    }
    chunk_bytes_ = std::max<size_t>(at, 1);
    waiting_.resize(static_cast<size_t>(tile_columns) * geometry_.k_bytes());
}

size_t ChunkedKeys::offset(int32_t layer, int32_t head) const {
    const auto owner = static_cast<size_t>(geometry_.layers[static_cast<size_t>(layer)].k_layer);
    return layers_[owner].offset +
           static_cast<size_t>(head) * layers_[owner].head_bytes * static_cast<size_t>(chunk_columns);
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
    const auto chunk = static_cast<size_t>(n_ / chunk_columns);
    try {
        if (chunk == chunks_.size()) {
            starts_.reserve(chunk + 1);
            // Not cleared: what columns to come hold is computed with and dropped, and touching it all would stall a token.
            chunks_.emplace_back(static_cast<uint8_t*>(::operator new[](chunk_bytes_, alignment)));
            starts_.push_back(chunks_.back().get());
        }
        positions_.push_back(frame.position); // nothing can fail after it
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for the keys of " + std::to_string(n_ + 1) + " positions"};
    }
    std::copy(frame.k.begin(), frame.k.end(), waiting_.begin() + (n_ - n_settled_) * static_cast<int64_t>(frame.k.size()));
    ++n_;
    if (n_ - n_settled_ == tile_columns) settle();
    return {};
}

void ChunkedKeys::settle() const {
    size_t in_frame = 0;
    for (int32_t i = 0; n_settled_ < n_ && i < geometry_.n_layer(); ++i) {
        if (!geometry_.owns_k(i)) continue;
        const LayerInfo& info = geometry_.layers[static_cast<size_t>(i)];
        const size_t bytes = layers_[static_cast<size_t>(i)].head_bytes;
        for (int32_t head = 0; head < info.n_head_kv; ++head, in_frame += bytes) {
            for (int64_t n = n_settled_; n < n_; ++n) {
                const uint8_t* const k = waiting_.data() + static_cast<size_t>(n - n_settled_) * geometry_.k_bytes() + in_frame;
                uint8_t* const to = chunks_[static_cast<size_t>(n / chunk_columns)].get() + offset(i, head);
                const int64_t column = n % chunk_columns;
                if (!keys_in_tiles(info.k_type)) std::memcpy(to + static_cast<size_t>(column) * bytes, k, bytes);
                else if (info.k_type == DType::f32) put_column<float>(to, column, k, info.head_dim);
                else put_column<uint16_t>(to, column, k, info.head_dim);
            }
        }
    }
    n_settled_ = n_;
}

void ChunkedKeys::truncate(int64_t n) {
    n_ = std::clamp<int64_t>(n, 0, n_);
    n_settled_ = std::min(n_settled_, n_);
    positions_.resize(static_cast<size_t>(n_));
}

} // namespace attnscope::view
