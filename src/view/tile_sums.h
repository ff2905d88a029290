// What maps and means are folded into, while rows of many tokens pass by.
#pragma once

#include "view/token_batch.h"

#include <attnscope/attention_map.h>

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

namespace attnscope::view {

// Tokens and columns cut into tiles.
struct Tiling {
    Range tokens, columns;
    int64_t tokens_per_tile = 1, columns_per_tile = 1;

    int64_t n_lines() const { return count(tokens.end - tokens.begin, tokens_per_tile); }    // tiles of tokens
    int64_t n_tiles() const { return count(columns.end - columns.begin, columns_per_tile); } // in a line
    int64_t line_of(int64_t token) const { return (token - tokens.begin) / tokens_per_tile; }

private:
    static int64_t count(int64_t n, int64_t each) { return n / each + (n % each != 0); }
};

// Sums (or largest values) of tiles: (planes, lines, tiles). With `each_row` every selected row has a plane, otherwise
// one plane holds them all. Within a layer and a block of tokens sums are float32, beyond that float64.
class TileSums final : public RowTaker {
public:
    TileSums(const Tiling& tiling, const SelectedRows& selection, bool each_row, TileValue value, int32_t n_members);
    // Whose rows come next.
    void start_batch(const TokenBatch& batch);

    void take(size_t layer, size_t head, size_t first, size_t n, const attention::BlockRows& rows,
              int32_t member) override;
    void end_layer(size_t first, size_t n, int32_t member) override;

    std::span<const double> plane(size_t i) const { return std::span(sums_).subspan(i * plane_size_, plane_size_); }
    std::span<double> plane(size_t i) { return std::span(sums_).subspan(i * plane_size_, plane_size_); }
    size_t n_planes() const { return plane_size_ == 0 ? 0 : sums_.size() / plane_size_; }

private:
    // One member's lines of the block in hand, all columns: a line a slot, in the order of its tokens.
    struct Lines {
        std::vector<float> values;
        std::vector<float> row;
        Range written;       // columns, from the first of the tiling
        int64_t n_added = 0; // rows that lie in a sum at most
    };
    // Calls f(slot, line, i, end) for each line with its tokens [first + i, first + end).
    template <class F> void each_line(size_t first, size_t n, F&& f) const;
    void flush(size_t plane, size_t first, size_t n, Lines& lines);

    const Tiling tiling_;
    const bool each_row_;
    const TileValue value_;
    const size_t n_heads_, plane_size_;
    const TokenBatch* batch_ = nullptr;
    std::vector<double> sums_;
    std::vector<Lines> lines_;              // one a member
    std::array<std::mutex, 64> line_locks_; // two blocks may share a line
};

// The rows themselves, (layers, heads, tokens, columns), where a tile is one token and one column.
class RowCopies final : public RowTaker {
public:
    RowCopies(const Tiling& tiling, const SelectedRows& selection, std::span<float> values)
        : tiling_(tiling), n_heads_(static_cast<size_t>(selection.n_heads)), values_(values) {}
    void start_batch(const TokenBatch& batch) { batch_ = &batch; }
    void take(size_t layer, size_t head, size_t first, size_t n, const attention::BlockRows& rows,
              int32_t member) override;
    void end_layer(size_t, size_t, int32_t) override {}

private:
    const Tiling tiling_;
    const size_t n_heads_;
    const std::span<float> values_;
    const TokenBatch* batch_ = nullptr;
};

} // namespace attnscope::view
