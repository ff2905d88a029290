#include "attention/group_rows.h"

#include "attention/softmax.h"

#include <algorithm>

namespace attnscope {

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
    each_piece(r.visible, tile_columns, [&](int64_t column, int64_t n) {
        const size_t in_chunk = static_cast<size_t>(column % chunk_columns) * r.plan->k_head_bytes;
        task.tiles = r.chunks[static_cast<size_t>(column / chunk_columns)] + r.chunk_offset + in_chunk;
        task.n_tiles = n / tile_columns;
        task.out = rows.values.data() + column;
        tiles(task);
    });
}

void quantised_dots(const GroupRequest& r, GroupRows& rows) {
    EngineDotTask task;
    task.q = r.q + static_cast<size_t>(r.head_begin) * r.plan->q_head_bytes;
    task.q_stride = r.plan->q_head_bytes;
    task.n_q = r.head_end - r.head_begin;
    task.k_stride = r.plan->k_head_bytes;
    task.out_stride = rows.stride;
    each_piece(r.visible, 1, [&](int64_t column, int64_t n) {
        const size_t in_chunk = static_cast<size_t>(column % chunk_columns) * r.plan->k_head_bytes;
        task.k = r.chunks[static_cast<size_t>(column / chunk_columns)] + r.chunk_offset + in_chunk;
        task.n = n;
        task.out = rows.values.data() + column;
        engine_dots(*r.layer, task);
    });
}

} // namespace

void reserve_group_rows(GroupRows& rows, int32_t n_heads, int32_t head_dim, int64_t n_columns) {
    rows.q.reserve(static_cast<size_t>(n_heads), head_dim);
    const auto n = static_cast<size_t>(n_columns);
    constexpr auto tile = static_cast<size_t>(tile_columns);
    rows.stride = (n + tile - 1) / tile * tile;
    const size_t size = static_cast<size_t>(n_heads) * rows.stride;
    if (rows.values.size() < size) rows.values.resize(size);
}

void group_rows(const RowKernels& kernels, const GroupRequest& r, GroupRows& rows) {
    reserve_group_rows(rows, r.head_end - r.head_begin, r.layer->head_dim, r.n_columns);
    if (r.plan->way == DotWay::float32) tile_dots(kernels, r, rows);
    else quantised_dots(r, rows);
    const SoftmaxTask task{r.layer, r.visible, r.n_columns, r.position, r.positions};
    for (int32_t h = r.head_begin; h < r.head_end; ++h)
        softmax_row(kernels, task, h, rows.values.data() + static_cast<size_t>(h - r.head_begin) * rows.stride);
}

} // namespace attnscope
