#include "attention/group_rows.h"

#include "attention/softmax.h"

#include <algorithm>
#include <cstring>

namespace attnscope::attention {

namespace {

// Calls f(first column, number of columns) for the visible columns, widened to multiples of `unit` and cut at chunks. No
// column comes twice.
template <class F> void each_piece(std::span<const Range> visible, int64_t unit, F&& f) {
    int64_t done = 0;
    for (const Range& r : visible) {
        if (r.begin >= r.end) continue;
        int64_t at = std::max(done, r.begin / unit * unit);
        const int64_t end = (r.end + unit - 1) / unit * unit;
        while (at < end) {
            const int64_t n = std::min(end, (at / chunk_columns + 1) * chunk_columns) - at;
            f(at, n);
            at += n;
        }
        done = std::max(done, end);
    }
}

// What is read after a chunk: the same head's keys in the next chunk, or behind the last one the next head's in the first, which
// lie behind this one's.
const uint8_t* next_keys(const GroupRequest& r, size_t chunk, int64_t end) {
    const size_t next = chunk + 1;
    if (static_cast<int64_t>(next) * chunk_columns < end) return r.chunks[next] + r.chunk_offset;
    const auto first = static_cast<size_t>(r.visible.front().begin / chunk_columns);
    return r.chunks[first] + r.chunk_offset + static_cast<size_t>(chunk_columns) * r.plan->k_head_bytes;
}

void tile_dots(const RowKernels& kernels, const GroupRequest& r, GroupRows& rows) {
    const LayerInfo& layer = *r.layer;
    rows.q.assign(r.q + static_cast<size_t>(r.head_begin) * r.plan->q_head_bytes, layer.q_type,
                  static_cast<size_t>(r.head_end - r.head_begin), layer.head_dim);
    auto* const tiles = layer.k_type == DType::f16    ? kernels.tiles_f16
                        : layer.k_type == DType::bf16 ? kernels.tiles_bf16
                                                      : kernels.tiles_f32;
    TileTask task;
    task.q = rows.q.head(0);
    task.q_stride = rows.q.stride();
    task.n_q = r.head_end - r.head_begin;
    task.head_dim = layer.head_dim;
    task.out_stride = rows.stride;
    task.batched = r.batched && layer.k_type != DType::f32; // as in attention_rows
    task.any_order = r.any_order;
    const int64_t end = r.visible.empty() ? 0 : r.visible.back().end;
    each_piece(r.visible, tile_columns, [&](int64_t column, int64_t n) {
        const size_t in_chunk = static_cast<size_t>(column % chunk_columns) * r.plan->k_head_bytes;
        const auto chunk = static_cast<size_t>(column / chunk_columns);
        task.tiles = r.chunks[chunk] + r.chunk_offset + in_chunk;
        task.ahead = next_keys(r, chunk, end);
        task.n_tiles = n / tile_columns;
        task.out = rows.values.data() + column;
        tiles(task);
    });
}

// Keys of a tile one after another: (tile_columns, head_dim).
void untile(const uint8_t* tile, size_t element, size_t head_dim, uint8_t* keys) {
    for (size_t d = 0; d < head_dim; ++d) {
        for (size_t c = 0; c < static_cast<size_t>(tile_columns); ++c, tile += element)
            std::memcpy(keys + (c * head_dim + d) * element, tile, element);
    }
}

// Through the engine's own dot products.
void engine_group_dots(const GroupRequest& r, GroupRows& rows) {
    EngineDotTask task;
    task.q = r.q + static_cast<size_t>(r.head_begin) * r.plan->q_head_bytes;
    task.q_stride = r.plan->q_head_bytes;
    task.n_q = r.head_end - r.head_begin;
    task.k_stride = r.plan->k_head_bytes;
    task.out_stride = rows.stride;
    const bool tiled = keys_in_tiles(r.layer->k_type);
    const auto head_dim = static_cast<size_t>(r.layer->head_dim);
    each_piece(r.visible, tiled ? tile_columns : 1, [&](int64_t column, int64_t n) {
        const size_t in_chunk = static_cast<size_t>(column % chunk_columns) * r.plan->k_head_bytes;
        const uint8_t* k = r.chunks[static_cast<size_t>(column / chunk_columns)] + r.chunk_offset + in_chunk;
        const int64_t step = tiled ? tile_columns : n;
        for (int64_t at = 0; at < n; at += step) {
            task.k = k + static_cast<size_t>(at) * r.plan->k_head_bytes;
            task.n = step;
            task.out = rows.values.data() + column + at;
            if (tiled) {
                untile(task.k, r.plan->k_head_bytes / head_dim, head_dim, rows.keys.data());
                task.k = rows.keys.data();
            }
            engine_dots(*r.layer, task);
        }
    });
}

} // namespace

bool keys_in_tiles(DType type) {
    return type == DType::f16 || type == DType::bf16 || type == DType::f32;
}

void reserve_group_rows(GroupRows& rows, int32_t n_heads, int32_t head_dim, int64_t n_columns) {
    rows.q.reserve(static_cast<size_t>(n_heads), head_dim);
    const size_t tile_bytes = static_cast<size_t>(tile_columns) * static_cast<size_t>(head_dim) * sizeof(float);
    if (rows.keys.size() < tile_bytes) rows.keys.resize(tile_bytes);
    const auto n = static_cast<size_t>(n_columns);
    constexpr auto tile = static_cast<size_t>(tile_columns);
    rows.stride = (n + tile - 1) / tile * tile;
    const size_t size = static_cast<size_t>(n_heads) * rows.stride;
    if (rows.values.size() < size) rows.values.resize(size);
}

void group_dots(const RowKernels& kernels, const GroupRequest& r, GroupRows& rows) {
    reserve_group_rows(rows, r.head_end - r.head_begin, r.layer->head_dim, r.n_columns);
    if (r.plan->way == DotWay::float32)
        tile_dots(kernels, r, rows);
    else
        engine_group_dots(r, rows);
}

void group_rows(const RowKernels& kernels, const GroupRequest& r, GroupRows& rows) {
    group_dots(kernels, r, rows);
    const SoftmaxTask task{r.layer, r.visible, r.n_columns, r.position, r.positions};
    for (int32_t h = r.head_begin; h < r.head_end; ++h)
        softmax_row(kernels, task, h, rows.values.data() + static_cast<size_t>(h - r.head_begin) * rows.stride);
}

} // namespace attnscope::attention
