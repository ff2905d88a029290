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

Lines::Before Lines::before(int32_t position, int64_t cell, const Ranges& visible) const {
    if (latest_ != none && latest_ != cell) {
        const Cell& latest = cells_[size_t(latest_)];
        // no position lies between, and whoever saw what it saw was known
        if (latest.line != none && latest.position + 1 == position && contains(visible, latest_)) return {&latest};
    }
    Before best;
    for (const Range& r : visible) {
        const int64_t end = std::min(r.end, static_cast<int64_t>(cells_.size()));
        if (r.end > end && (r.end - std::max(r.begin, end) > 1 || r.end - 1 != cell)) return {nullptr, true};
        for (int64_t c = r.begin; c < end; ++c) {
            const Cell& candidate = cells_[size_t(c)];
            if (c == cell) continue;
            if (candidate.line == none) return {nullptr, true};
            if (candidate.position >= position) continue;
            if (!best.cell || candidate.position > best.cell->position) best.cell = &candidate;
        }
    }
    return best;
}

Lines::Predecessor Lines::predecessor(int32_t position, int64_t cell, const Ranges& visible) const {
    const Before found = before(position, cell, visible);
    if (found.unknown) return {none, none, 0, true};
    if (!found.cell) return {};
    return {found.cell - cells_.data(), found.cell->line, found.cell->index, false};
}

Lines::Cell& Lines::at(int64_t cell) {
    if (cells_.size() <= size_t(cell)) cells_.resize(size_t(cell) + 1);
    return cells_[size_t(cell)];
}

Place Lines::place(int32_t position, int64_t cell, const Ranges& visible) {
    const Before found = before(position, cell, visible);
    Place place;
    if (found.unknown) {
        forget_cell(cell);
        place.unknown = true;
        return place;
    }
    const Cell* last = found.cell;
    place.alone = !last;
    if (last && last->index + 1 == lengths_[size_t(last->line)]) {
        place.line = last->line;
        place.index = last->index + 1;
    } else {
        place.begins = true;
        place.line = n_lines();
        place.index = last ? last->index + 1 : 0;
        place.parent = last ? last->line : none;
        place.n_shared = place.index;
        lengths_.push_back(place.index);
    }
    ++lengths_[size_t(place.line)];
    at(cell) = {place.line, place.index, position};
    latest_ = cell;
    return place;
}

void Lines::forget_cell(int64_t cell) {
    at(cell).line = none;
    if (latest_ == cell) latest_ = none;
}

void Lines::restore_cell(int64_t cell, int64_t line, int64_t index, int32_t position) {
    at(cell) = {line, index, position};
    if (latest_ == cell) latest_ = none;
}

} // namespace attnscope::attach
