#include "attention/tile_keys.h"

#include "attention/group_rows.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace attnscope::attention {

namespace {

// A run of tiles: (tile, dim, tile_columns).
struct Tiles {
    uint8_t* data;
    int32_t dim;
    size_t element;

    size_t row() const { return static_cast<size_t>(tile_columns) * element; }
    uint8_t* column(int64_t c) const {
        return data + static_cast<size_t>(c / tile_columns) * static_cast<size_t>(dim) * row() +
               static_cast<size_t>(c % tile_columns) * element;
    }
};

template <class Element> void put_column(const Tiles& tiles, int64_t column, const uint8_t* key) {
    uint8_t* to = tiles.column(column);
    for (int32_t d = 0; d < tiles.dim; ++d, to += tiles.row(), key += sizeof(Element))
        std::memcpy(to, key, sizeof(Element));
}

#if defined(__SSE2__)

__m128i load(const uint8_t* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(p)));
}
void store(uint8_t* p, __m128i x) {
    _mm_storeu_si128(static_cast<__m128i*>(static_cast<void*>(p)), x);
}

// Eight 16-bit elements of eight keys, as eight dimensions of eight columns.
void put_square(const uint8_t* from, size_t from_stride, uint8_t* to, size_t to_stride) {
    __m128i x[8], y[8];
    for (size_t i = 0; i < 8; ++i) x[i] = load(from + i * from_stride);
    for (size_t i = 0; i < 4; ++i) { // pairs of keys
        y[2 * i] = _mm_unpacklo_epi16(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm_unpackhi_epi16(x[2 * i], x[2 * i + 1]);
    }
    for (size_t i = 0; i < 2; ++i) { // fours
        x[4 * i] = _mm_unpacklo_epi32(y[4 * i], y[4 * i + 2]);
        x[4 * i + 1] = _mm_unpackhi_epi32(y[4 * i], y[4 * i + 2]);
        x[4 * i + 2] = _mm_unpacklo_epi32(y[4 * i + 1], y[4 * i + 3]);
        x[4 * i + 3] = _mm_unpackhi_epi32(y[4 * i + 1], y[4 * i + 3]);
    }
    for (size_t i = 0; i < 4; ++i) {
        store(to + 2 * i * to_stride, _mm_unpacklo_epi64(x[i], x[i + 4]));
        store(to + (2 * i + 1) * to_stride, _mm_unpackhi_epi64(x[i], x[i + 4]));
    }
}

// Eight neighbouring keys, the first one's column a multiple of eight.
void put_eight(const Tiles& tiles, int64_t column, const uint8_t* keys, size_t stride) {
    uint8_t* const to = tiles.column(column);
    for (int32_t d = 0; d < tiles.dim; d += 8)
        put_square(keys + static_cast<size_t>(d) * 2, stride, to + static_cast<size_t>(d) * tiles.row(), tiles.row());
}
constexpr bool has_squares = true;

#else

void put_eight(const Tiles&, int64_t, const uint8_t*, size_t) {}
constexpr bool has_squares = false;

#endif

} // namespace

void put_keys(const LayerInfo& layer, const uint8_t* keys, size_t stride, int64_t column, int64_t n,
              uint8_t* chunk_head) {
    const size_t head_bytes = dtype_row_bytes(layer.k_type, layer.head_dim);
    if (!keys_in_tiles(layer.k_type)) {
        for (int64_t c = 0; c < n; ++c)
            std::memcpy(chunk_head + static_cast<size_t>(column + c) * head_bytes,
                        keys + static_cast<size_t>(c) * stride, head_bytes);
        return;
    }
    const Tiles tiles{chunk_head, layer.head_dim, dtype_row_bytes(layer.k_type, 1)};
    const bool squares = has_squares && tiles.element == 2 && layer.head_dim % 8 == 0;
    for (int64_t c = 0; c < n;) {
        const uint8_t* const key = keys + static_cast<size_t>(c) * stride;
        if (squares && (column + c) % 8 == 0 && n - c >= 8) {
            put_eight(tiles, column + c, key, stride);
            c += 8;
            continue;
        }
        if (tiles.element == sizeof(float))
            put_column<float>(tiles, column + c, key);
        else
            put_column<uint16_t>(tiles, column + c, key);
        ++c;
    }
}

} // namespace attnscope::attention
