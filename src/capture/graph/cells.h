// From cells of the KV cache to columns of attention: which frame each cell holds, and what a mask row lets be seen.
#pragma once

#include <attnscope/types.h>

#include <ggml.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::capture {

// One cache (a model with sliding windows has two, each with cells of its own).
class CellMap {
public:
    static constexpr int64_t unknown = -1;

    // Frame `column` at `position` was written to `cell`.
    void assign(int64_t cell, int64_t column, int32_t position);
    // Cells [to, to + n) hold what [from, from + n) hold of columns below `end`.
    void copy(int64_t from, int64_t to, int64_t n, int64_t end);
    void clear();
    int64_t column(int64_t cell) const { return size_t(cell) < columns_.size() ? columns_[size_t(cell)] : unknown; }
    struct Entry {
        int64_t cell = 0;
        int64_t column = unknown;
        int32_t position = 0;
    };
    // What a cell holds; it must be known.
    Entry entry(int64_t cell) const { return {cell, columns_[size_t(cell)], positions_[size_t(cell)]}; }
    // Column of every cell, `unknown` where nothing is known.
    std::span<const int64_t> columns() const { return columns_; }
    // Every cell that is known holds the frame of its own number: cells are columns.
    bool in_order() const { return in_order_; }
    // Position of every cell, for ALiBi; 0 where nothing is known.
    std::span<const int32_t> positions() const { return positions_; }

    // The columns that a row of a mask shows, sorted. Cells that are visible but unknown are counted in *n_unknown.
    Ranges columns_of(std::span<const Range> cells, int64_t* n_unknown) const;

private:
    void mark(int64_t cell);
    int64_t run_end(int64_t cell, int64_t end) const;

    std::vector<int64_t> columns_;
    std::vector<int32_t> positions_;
    // Bit c is set where cell c does not hold the frame after that of cell c - 1. Cells are almost always taken in
    // order, so columns are found run by run: a prompt's tokens ask for as many cells as batch times context.
    std::vector<uint64_t> breaks_;
    bool in_order_ = true;
};

// A cell map as it was before some of its cells were taken by later tokens (a sliding window's ring wraps). Borrows both.
class CellView {
public:
    using Entry = CellMap::Entry;
    CellView() = default;
    // `before`: what the taken cells held, sorted by cell.
    CellView(const CellMap& map, std::span<const Entry> before) : map_(&map), before_(before) {}
    int64_t column(int64_t cell) const {
        const auto at = std::lower_bound(before_.begin(), before_.end(), cell,
                                         [](const Entry& e, int64_t c) { return e.cell < c; });
        return at != before_.end() && at->cell == cell ? at->column : map_->column(cell);
    }
    bool in_order() const { return map_->in_order() && before_.empty(); }
    // Column, and position, of every cell.
    std::vector<int64_t> columns() const;
    std::vector<int32_t> positions() const;

private:
    const CellMap* map_ = nullptr;
    std::span<const Entry> before_;
};

// The cells that row `row` of `mask` (n_kv, n_query; f16 or f32, host memory at `data`) lets be seen: those whose value
// is not -inf.
Ranges visible_cells(const ggml_tensor* mask, const uint8_t* data, int64_t row);

} // namespace attnscope::capture
