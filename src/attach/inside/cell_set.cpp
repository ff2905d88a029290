#include "attach/inside/cell_set.h"

#include <algorithm>

namespace attnscope::attach {

bool CellSet::add(const Range& cells) {
    if (cells.begin >= cells.end) return false;
    // those that it touches become one with it
    const auto first =
        std::partition_point(ranges_.begin(), ranges_.end(), [&](const Range& r) { return r.end < cells.begin; });
    const auto last = std::partition_point(first, ranges_.end(), [&](const Range& r) { return r.begin <= cells.end; });
    if (first != last && first->begin <= cells.begin && first->end >= cells.end) return false;
    Range all = cells;
    if (first != last) all = {std::min(cells.begin, first->begin), std::max(cells.end, std::prev(last)->end)};
    ranges_.insert(ranges_.erase(first, last), all);
    return true;
}

void CellSet::remove(const Range& cells) {
    if (cells.begin >= cells.end) return;
    Ranges left;
    for (const Range& r : ranges_) {
        if (r.begin < std::min(r.end, cells.begin)) left.push_back({r.begin, std::min(r.end, cells.begin)});
        if (std::max(r.begin, cells.end) < r.end) left.push_back({std::max(r.begin, cells.end), r.end});
    }
    ranges_ = std::move(left);
}

Ranges CellSet::both(const Ranges& others) const {
    Ranges found;
    auto other = others.begin();
    for (const Range& r : ranges_) {
        while (other != others.end() && other->end <= r.begin) ++other;
        for (auto o = other; o != others.end() && o->begin < r.end; ++o)
            found.push_back({std::max(r.begin, o->begin), std::min(r.end, o->end)});
    }
    return found;
}

} // namespace attnscope::attach
