#include "attach/inside/lines.h"

#include <algorithm>
#include <utility>

namespace attnscope::attach {

namespace {

constexpr size_t most_recent = 32; // as many lines may be decoded at once without a look at all that each token sees

bool contains(const Ranges& ranges, int64_t cell) {
    const auto after =
        std::upper_bound(ranges.begin(), ranges.end(), cell, [](int64_t c, const Range& r) { return c < r.begin; });
    return after != ranges.begin() && cell < std::prev(after)->end;
}

// Is all of `ranges` in `others`, but perhaps for `cell`? Both are sorted.
bool within(const Ranges& ranges, const Ranges& others, int64_t cell) {
    auto other = others.begin();
    for (const Range& r : ranges) {
        int64_t begin = r.begin;
        for (;;) {
            while (other != others.end() && other->end <= begin) ++other;
            if (begin == cell && (other == others.end() || begin < other->begin)) ++begin;
            if (begin >= r.end) break;
            if (other == others.end() || begin < other->begin) return false;
            begin = std::max(begin, other->end);
            if (begin >= r.end) break;
        }
    }
    return true;
}

} // namespace

Lines::Before Lines::before(int32_t position, int64_t cell, const Ranges& visible) const {
    for (auto r = recent_.rbegin(); r != recent_.rend(); ++r) {
        const Cell& latest = cells_[size_t(r->cell)];
        if (r->cell == cell || latest.position + 1 != position || !contains(visible, r->cell)) continue;
        // no position lies between, and what it saw was known
        if (within(visible, r->visible, cell)) return {&latest, false, true};
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

int64_t Lines::owner(int64_t line, int64_t index) const {
    while (line != none && index < lines_[size_t(line)].n_shared) line = lines_[size_t(line)].parent;
    return line;
}

void Lines::strangers(const KnownToken& last, int32_t position, int64_t cell, const Ranges& visible,
                      const std::function<bool(int64_t, int64_t)>& visit) const {
    std::vector<std::pair<int64_t, int64_t>> owners; // from the end back: from which index on, and who
    for (int64_t line = last.line; line != none; line = lines_[size_t(line)].parent) {
        const int64_t begin = lines_[size_t(line)].n_shared;
        if (begin <= last.index && (owners.empty() || begin < owners.back().first)) owners.emplace_back(begin, line);
    }
    for (const Range& r : visible) {
        for (int64_t c = r.begin; c < std::min(r.end, static_cast<int64_t>(cells_.size())); ++c) {
            const Cell& seen = cells_[size_t(c)];
            if (c == cell || seen.position >= position) continue;
            const auto at = std::partition_point(owners.begin(), owners.end(),
                                                 [&](const auto& owner) { return owner.first > seen.index; });
            const int64_t owner = at == owners.end() || seen.index > last.index ? none : at->second;
            if (seen.line != owner && !visit(c, owner)) return;
        }
    }
}

const Lines::Cell* Lines::settle(const Cell& last, int32_t position, int64_t cell, const Ranges& visible,
                                 const Readings* readings) {
    const int64_t at_last = &last - cells_.data();
    std::vector<KnownToken> tokens; // the likeliest last
    if (last.restored && readings) tokens = readings->of(at_last);
    tokens.push_back({last.line, last.index, last.position});
    for (; !tokens.empty(); tokens.pop_back()) {
        const KnownToken& t = tokens.back();
        if (t.index != last.index || t.position != last.position) continue;
        bool fits = true;
        std::vector<std::pair<int64_t, int64_t>> said; // cells and whose they are
        strangers(t, position, cell, visible, [&](int64_t c, int64_t owner) {
            const Cell& seen = cells_[size_t(c)];
            fits = owner != none && seen.restored && readings && readings->holds(c, owner, seen.index);
            said.emplace_back(c, owner);
            return fits;
        });
        if (!fits) continue;
        for (const auto& [c, owner] : said) cells_[size_t(c)].line = owner;
        return &last;
    }
    return nullptr;
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

// Whoever saw it is not asked any more.
void Lines::holds_something_else(int64_t cell) {
    if (at(cell).line == none) return;
    std::erase_if(recent_, [&](const Recent& r) { return r.cell == cell || contains(r.visible, cell); });
}

void Lines::remember(int64_t before, int64_t cell, const Ranges& visible) {
    const auto known = std::find_if(recent_.begin(), recent_.end(),
                                    [&](const Recent& r) { return before != none && r.cell == before; });
    if (known != recent_.end())
        recent_.erase(known);
    else if (recent_.size() == most_recent)
        recent_.erase(recent_.begin());
    if (contains(visible, cell))
        recent_.push_back({cell, visible}); // one that the mask hides from itself is looked for
}

Place Lines::place(int32_t position, int64_t cell, const Ranges& visible, const Readings* readings) {
    Before found = before(position, cell, visible);
    if (found.cell && !found.lately) {
        found.cell = settle(*found.cell, position, cell, visible, readings);
        found.unknown = !found.cell;
    }
    Place place;
    if (found.unknown) {
        forget_cell(cell);
        place.unknown = true;
        return place;
    }
    const Cell* last = found.cell;
    const int64_t before_it = last ? last - cells_.data() : none;
    place.alone = !last;
    if (last && last->index + 1 == length(last->line)) {
        place.line = last->line;
        place.index = last->index + 1;
    } else {
        place.begins = true;
        place.line = n_lines();
        place.index = last ? last->index + 1 : 0;
        place.parent = last ? last->line : none;
        place.n_shared = place.index;
        lines_.push_back({place.index, place.parent, place.n_shared});
    }
    ++lines_[size_t(place.line)].length;
    holds_something_else(cell);
    at(cell) = {place.line, place.index, position, false};
    remember(before_it, cell, visible);
    return place;
}

void Lines::forget_cell(int64_t cell) {
    holds_something_else(cell);
    at(cell).line = none;
}

void Lines::restore_cell(int64_t cell, int64_t line, int64_t index, int32_t position) {
    holds_something_else(cell);
    at(cell) = {line, index, position, true};
}

} // namespace attnscope::attach
