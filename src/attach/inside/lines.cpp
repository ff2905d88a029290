#include "attach/inside/lines.h"

#include <algorithm>

namespace attnscope::attach {

namespace {

bool contains(const Ranges& ranges, int64_t cell) {
    const auto after =
        std::upper_bound(ranges.begin(), ranges.end(), cell, [](int64_t c, const Range& r) { return c < r.begin; });
    return after != ranges.begin() && cell < std::prev(after)->end;
}

} // namespace

const Lines::Cell* Lines::predecessor(int32_t position, int64_t cell, const Ranges& visible) const {
    if (latest_ != none && latest_ != cell) {
        const Cell& latest = cells_[size_t(latest_)];
        // no position lies between
        if (latest.line != none && latest.position + 1 == position && contains(visible, latest_)) return &latest;
    }
    const Cell* best = nullptr;
    for (const Range& r : visible) {
        const int64_t end = std::min(r.end, static_cast<int64_t>(cells_.size()));
        for (int64_t c = r.begin; c < end; ++c) {
            const Cell& candidate = cells_[size_t(c)];
            if (c == cell || candidate.line == none || candidate.position >= position) continue;
            if (!best || candidate.position > best->position) best = &candidate;
        }
    }
    return best;
}

Place Lines::place(int32_t position, int64_t cell, const Ranges& visible) {
    const Cell* before = predecessor(position, cell, visible);
    Place place;
    place.alone = !before;
    if (before && before->index + 1 == lengths_[size_t(before->line)]) {
        place.line = before->line;
        place.index = before->index + 1;
    } else {
        place.begins = true;
        place.line = n_lines();
        place.index = before ? before->index + 1 : 0;
        place.parent = before ? before->line : none;
        place.n_shared = place.index;
        lengths_.push_back(place.index);
    }
    ++lengths_[size_t(place.line)];
    if (cells_.size() <= size_t(cell)) cells_.resize(size_t(cell) + 1);
    cells_[size_t(cell)] = {place.line, place.index, position};
    latest_ = cell;
    return place;
}

void Lines::forget_cell(int64_t cell) {
    if (size_t(cell) < cells_.size()) cells_[size_t(cell)].line = none;
}

} // namespace attnscope::attach
