#include "view/tile_sums.h"

#include <algorithm>

namespace attnscope::view {

namespace {

// Calls f(columns of the piece inside `columns`, piece).
template <class F> void each_strip(const attention::BlockRows& rows, const Range& columns, F&& f) {
    for (const attention::BlockPiece& piece : rows.pieces) {
        const Range strip{std::max(piece.begin, columns.begin), std::min(piece.end, columns.end)};
        if (strip.begin < strip.end) f(strip, piece);
    }
}

} // namespace

TileSums::TileSums(const Tiling& tiling, const SelectedRows& selection, bool each_row, TileValue value,
                   int32_t n_members)
    : tiling_(tiling), each_row_(each_row), value_(value), n_heads_(static_cast<size_t>(selection.n_heads)),
      plane_size_(static_cast<size_t>(tiling.n_lines() * tiling.n_tiles())),
      sums_((each_row ? selection.layers.size() * n_heads_ : 1) * plane_size_, 0.0),
      lines_(static_cast<size_t>(n_members)) {}

void TileSums::start_batch(const TokenBatch& batch) {
    batch_ = &batch;
    const auto width = static_cast<size_t>(tiling_.columns.end - tiling_.columns.begin);
    const size_t most = std::max(max_block_tokens(batch.n_columns, false), max_block_tokens(batch.n_columns, true));
    for (Lines& lines : lines_) {
        lines.values.assign(std::min(batch.tokens.size(), most) * width, 0.0f); // no more lines than tokens
        lines.row.resize(static_cast<size_t>(attention::chunk_columns));
        lines.written = {static_cast<int64_t>(width), 0};
    }
}

template <class F> void TileSums::each_line(size_t first, size_t n, F&& f) const {
    size_t slot = 0;
    for (size_t i = 0; i < n; ++slot) {
        const int64_t line = tiling_.line_of(batch_->tokens[first + i].index);
        size_t end = i + 1;
        while (end < n && tiling_.line_of(batch_->tokens[first + end].index) == line) ++end;
        f(slot, line, i, end);
        i = end;
    }
}

void TileSums::take(size_t layer, size_t head, size_t first, size_t n, const attention::BlockRows& rows,
                    int32_t member) {
    constexpr int64_t many = 64; // what float32 adds up without losing more than the weights have lost
    Lines& lines = lines_[static_cast<size_t>(member)];
    const attention::BlockKernels& kernels = attention::block_kernels();
    const auto width = static_cast<size_t>(tiling_.columns.end - tiling_.columns.begin);
    int64_t longest = 0;
    each_line(first, n, [&](size_t slot, int64_t, size_t i, size_t end) {
        float* const to = lines.values.data() + slot * width;
        longest = std::max(longest, static_cast<int64_t>(end - i));
        each_strip(rows, tiling_.columns, [&](const Range& strip, const attention::BlockPiece& piece) {
            const int64_t at = strip.begin - tiling_.columns.begin, count = strip.end - strip.begin;
            lines.written = {std::min(lines.written.begin, at), std::max(lines.written.end, at + count)};
            if (value_ == TileValue::share) {
                kernels.fold(rows.row(i) + strip.begin, rows.stride(), piece.factors + i, static_cast<int64_t>(end - i),
                             count, to + at);
                return;
            }
            for (size_t t = i; t < end; ++t) {
                kernels.scale(rows.row(t) + strip.begin, piece.factors[t], count, lines.row.data());
                attention::row_kernels().largest(to + at, lines.row.data(), count);
            }
        });
    });
    lines.n_added += longest;
    if (each_row_)
        flush(layer * n_heads_ + head, first, n, lines);
    else if (lines.n_added >= many)
        flush(0, first, n, lines);
}

void TileSums::end_layer(size_t first, size_t n, int32_t member) {
    if (!each_row_) flush(0, first, n, lines_[static_cast<size_t>(member)]);
}

void TileSums::flush(size_t plane, size_t first, size_t n, Lines& lines) {
    const auto width = static_cast<size_t>(tiling_.columns.end - tiling_.columns.begin);
    const auto n_tiles = static_cast<size_t>(tiling_.n_tiles());
    const Range columns = lines.written;
    lines.written = {static_cast<int64_t>(width), 0};
    lines.n_added = 0;
    if (columns.begin >= columns.end) return;
    each_line(first, n, [&](size_t slot, int64_t line, size_t, size_t) {
        float* const from = lines.values.data() + slot * width;
        double* const to = sums_.data() + plane * plane_size_ + static_cast<size_t>(line) * n_tiles;
        const std::lock_guard lock(line_locks_[static_cast<size_t>(line) % line_locks_.size()]);
        for (int64_t j = columns.begin; j < columns.end;) {
            double& tile = to[j / tiling_.columns_per_tile];
            const int64_t end = std::min(columns.end, (j / tiling_.columns_per_tile + 1) * tiling_.columns_per_tile);
            double sum = 0, largest = 0;
            for (; j < end; ++j) {
                const auto value = static_cast<double>(from[j]);
                sum += value;
                if (!(value <= largest)) largest = value;
            }
            if (value_ == TileValue::share)
                tile += sum;
            else if (!(largest <= tile))
                tile = largest;
        }
        std::fill(from + columns.begin, from + columns.end, 0.0f);
    });
}

void RowCopies::take(size_t layer, size_t head, size_t first, size_t n, const attention::BlockRows& rows, int32_t) {
    const auto width = static_cast<size_t>(tiling_.columns.end - tiling_.columns.begin);
    const auto n_tokens = static_cast<size_t>(tiling_.tokens.end - tiling_.tokens.begin);
    float* const plane = values_.data() + (layer * n_heads_ + head) * n_tokens * width;
    for (size_t i = 0; i < n; ++i) {
        float* const line = plane + static_cast<size_t>(tiling_.line_of(batch_->tokens[first + i].index)) * width;
        each_strip(rows, tiling_.columns, [&](const Range& strip, const attention::BlockPiece& piece) {
            attention::block_kernels().scale(rows.row(i) + strip.begin, piece.factors[i], strip.end - strip.begin,
                                             line + (strip.begin - tiling_.columns.begin));
        });
    }
}

} // namespace attnscope::view
