#include "view/recorded/keys.h"

#include "attention/group_rows.h"
#include "attention/tile_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include <sys/mman.h>

namespace attnscope::view {

namespace {
constexpr size_t page = 4096;
constexpr size_t read_bytes = size_t(1) << 20; // at a time: they stay in the cache until they are in their tiles
} // namespace

LayerTiles::LayerTiles(const LayerInfo& info, int64_t n_columns) {
    head_stride_ = info.k_bytes() / static_cast<size_t>(info.n_head_kv) * static_cast<size_t>(attention::chunk_columns);
    chunk_bytes_ = head_stride_ * static_cast<size_t>(info.n_head_kv);
    const auto n_chunks = static_cast<size_t>((n_columns + attention::chunk_columns - 1) / attention::chunk_columns);
    n_bytes_ = n_chunks * chunk_bytes_;
    bytes_.reset(static_cast<uint8_t*>(::operator new[](std::max<size_t>(n_bytes_, 1), alignment)));
#if defined(MADV_HUGEPAGE)
    // All of it is read for every row. A system that gives no large pages is only slower.
    (void)madvise(bytes_.get(), n_bytes_ / page * page, MADV_HUGEPAGE);
#endif
    for (size_t c = 0; c < n_chunks; ++c) chunks_.push_back(bytes_.get() + c * chunk_bytes_);
}

void LayerTiles::put(const LayerInfo& info, int64_t begin, std::span<const uint8_t> keys) {
    const auto n = static_cast<int64_t>(keys.size() / info.k_bytes());
    const size_t head_bytes = info.k_bytes() / static_cast<size_t>(info.n_head_kv);
    for (int64_t at = 0; at < n; at += attention::chunk_columns) {
        uint8_t* const chunk =
            bytes_.get() + static_cast<size_t>((begin + at) / attention::chunk_columns) * chunk_bytes_;
        const int64_t here = std::min(attention::chunk_columns, n - at);
        if (here < attention::chunk_columns) std::memset(chunk, 0, chunk_bytes_); // tiles are multiplied as wholes
        for (int32_t head = 0; head < info.n_head_kv; ++head) {
            attention::put_keys(
                info, keys.data() + static_cast<size_t>(at) * info.k_bytes() + static_cast<size_t>(head) * head_bytes,
                info.k_bytes(), 0, here, chunk + static_cast<size_t>(head) * head_stride_);
        }
    }
}

void LayerTiles::key(const LayerInfo& info, int32_t kv_head, int64_t column, uint8_t* out) const {
    const uint8_t* const head =
        chunks_[static_cast<size_t>(column / attention::chunk_columns)] + static_cast<size_t>(kv_head) * head_stride_;
    const auto at = static_cast<size_t>(column % attention::chunk_columns);
    const size_t head_bytes = dtype_row_bytes(info.k_type, info.head_dim);
    if (!attention::keys_in_tiles(info.k_type)) {
        std::memcpy(out, head + at * head_bytes, head_bytes);
        return;
    }
    constexpr auto wide = static_cast<size_t>(attention::tile_columns);
    const size_t element = dtype_row_bytes(info.k_type, 1);
    const uint8_t* from = head + at / wide * wide * head_bytes + at % wide * element;
    for (int32_t d = 0; d < info.head_dim; ++d, from += wide * element, out += element) std::memcpy(out, from, element);
}

RecordedKeys::RecordedKeys(const Geometry& geometry, int64_t n, Read read)
    : geometry_(geometry), n_(n), read_(std::move(read)) {
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) layers_.push_back(std::make_unique<Layer>());
}

Result<std::unique_ptr<const LayerTiles>> RecordedKeys::read(int32_t k_layer) const try {
    const LayerInfo& info = geometry_.layers[static_cast<size_t>(k_layer)];
    auto tiles = std::make_unique<LayerTiles>(info, n_);
    const int64_t step =
        std::max<int64_t>(1, static_cast<int64_t>(read_bytes / info.k_bytes()) / attention::chunk_columns) *
        attention::chunk_columns;
    for (int64_t begin = 0; begin < n_; begin += step) {
        const int64_t end = std::min(n_, begin + step);
        const Result<std::vector<uint8_t>> keys = read_(k_layer, begin, end);
        if (!keys) return keys.error();
        if (keys->size() != static_cast<size_t>(end - begin) * info.k_bytes())
            return Error{ErrorKind::damaged, fmt::format("layer {} has keys of another size", k_layer)};
        tiles->put(info, begin, *keys);
    }
    return std::unique_ptr<const LayerTiles>(std::move(tiles));
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "there is no memory for the keys of this recording"};
}

Result<const LayerTiles*> RecordedKeys::layer(int32_t k_layer) {
    if (k_layer < 0 || k_layer >= geometry_.n_layer() || !geometry_.owns_k(k_layer))
        return Error{ErrorKind::not_found, fmt::format("layer {} has no keys of its own", k_layer)};
    Layer& layer = *layers_[static_cast<size_t>(k_layer)];
    std::call_once(layer.once, [&] {
        Result<std::unique_ptr<const LayerTiles>> tiles = read(k_layer);
        if (!tiles) {
            layer.status = tiles.error();
            return;
        }
        layer.tiles = std::move(*tiles);
        layer.there = true;
    });
    if (!layer.status) return layer.status.error();
    return layer.tiles.get();
}

const LayerTiles* RecordedKeys::there(int32_t k_layer) const {
    if (k_layer < 0 || k_layer >= geometry_.n_layer()) return nullptr;
    const Layer& layer = *layers_[static_cast<size_t>(k_layer)];
    return layer.there ? layer.tiles.get() : nullptr;
}

size_t RecordedKeys::bytes() const {
    size_t sum = 0;
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        if (const LayerTiles* const tiles = there(i)) sum += tiles->bytes();
    }
    return sum;
}

} // namespace attnscope::view
