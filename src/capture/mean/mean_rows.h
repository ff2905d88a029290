// What the means of a CPU and of devices share: which rows they are of, and the way from cells to columns.
#pragma once

#include "capture/graph/cells.h"

#include <attnscope/types.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::capture {

// Layers or heads that were chosen; none named: all.
inline bool among(const std::vector<int32_t>& chosen, int32_t i) {
    return chosen.empty() || std::find(chosen.begin(), chosen.end(), i) != chosen.end();
}

// mean[column of cell] += by_cell[cell] * share, for the cells that are seen. Columns beyond the mean are passed by.
template <typename Number>
void add_cells(const CellView& cells, std::span<const Range> seen, std::span<const Number> by_cell, Number share,
               std::vector<float>& mean) {
    for (const Range& r : seen) {
        const int64_t end = std::min(r.end, static_cast<int64_t>(by_cell.size()));
        for (int64_t cell = r.begin; cell < end; ++cell) {
            const int64_t column = cells.column(cell);
            if (column >= 0 && size_t(column) < mean.size())
                mean[size_t(column)] += static_cast<float>(by_cell[size_t(cell)] * share);
        }
    }
}

} // namespace attnscope::capture
