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
} // namespace

LayerTiles::LayerTiles(const LayerInfo& info, std::span<const uint8_t> keys) {
    const auto n = static_cast<int64_t>(keys.size() / info.k_bytes());
    const size_t head_bytes = info.k_bytes() / static_cast<size_t>(info.n_head_kv);
    head_stride_ = head_bytes * static_cast<size_t>(attention::chunk_columns);
    const size_t chunk_bytes = head_stride_ * static_cast<size_t>(info.n_head_kv);
    const int64_t n_chunks = (n + attention::chunk_columns - 1) / attention::chunk_columns;
    n_bytes_ = static_cast<size_t>(n_chunks) * chunk_bytes;
    bytes_.reset(static_cast<uint8_t*>(::operator new[](std::max<size_t>(n_bytes_, 1), alignment)));
#if defined(MADV_HUGEPAGE)
    // All of it is read for every row. A system that gives no large pages is only slower.
    (void)madvise(bytes_.get(), n_bytes_ / page * page, MADV_HUGEPAGE);
#endif
    for (int64_t c = 0; c < n_chunks; ++c) {
        uint8_t* const chunk = bytes_.get() + static_cast<size_t>(c) * chunk_bytes;
        const int64_t begin = c * attention::chunk_columns, here = std::min(attention::chunk_columns, n - begin);
        if (here < attention::chunk_columns) std::memset(chunk, 0, chunk_bytes); // tiles are multiplied as wholes
        for (int32_t head = 0; head < info.n_head_kv; ++head) {
            attention::put_keys(info,
                                keys.data() + static_cast<size_t>(begin) * info.k_bytes() +
                                    static_cast<size_t>(head) * head_bytes,
                                info.k_bytes(), 0, here, chunk + static_cast<size_t>(head) * head_stride_);
        }
        chunks_.push_back(chunk);
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

Result<const LayerTiles*> RecordedKeys::layer(int32_t k_layer) {
    if (k_layer < 0 || k_layer >= geometry_.n_layer() || !geometry_.owns_k(k_layer))
        return Error{ErrorKind::not_found, fmt::format("layer {} has no keys of its own", k_layer)};
    Layer& layer = *layers_[static_cast<size_t>(k_layer)];
    std::call_once(layer.once, [&] {
        const LayerInfo& info = geometry_.layers[static_cast<size_t>(k_layer)];
        try {
            const Result<std::vector<uint8_t>> keys = [&] {
                const std::lock_guard lock(reading_);
                return read_(k_layer);
            }();
            if (!keys) {
                layer.status = keys.error();
            } else if (keys->size() != static_cast<size_t>(n_) * info.k_bytes()) {
                layer.status = Error{ErrorKind::damaged, fmt::format("layer {} has keys of another size", k_layer)};
            } else {
                layer.tiles = std::make_unique<const LayerTiles>(info, *keys);
                layer.there = true;
            }
        } catch (const std::bad_alloc&) {
            layer.status = Error{ErrorKind::io, "there is no memory for the keys of this recording"};
        }
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
