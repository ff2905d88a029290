#include "capture/graph/cells.h"

#include "capture/graph/ggml_abi.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace attnscope::capture {

namespace {

// The masks of f16 are 0 or -inf (or small ALiBi distances); -inf is 0xFC00.
constexpr uint16_t f16_minus_inf = 0xFC00;
constexpr uint32_t f32_minus_inf = 0xFF800000;

template <typename T> T element(const uint8_t* row, int64_t i) {
    T value;
    std::memcpy(&value, row + size_t(i) * sizeof(T), sizeof(T));
    return value;
}

// Steps over runs in which nothing changes: a prompt's mask has batch times context elements, nearly all in long runs,
// and a device may be waiting for this.
template <typename T> Ranges scan(const uint8_t* row, int64_t n, T hidden) {
    constexpr int64_t step = 256;
    using Step = std::array<T, size_t(step)>;
    Step all_hidden;
    all_hidden.fill(hidden);
    constexpr Step all_visible{}; // but for ALiBi
    Ranges ranges;
    bool open = false;
    for (int64_t i = 0; i < n;) {
        const int64_t end = std::min(i + step, n);
        if (end - i == step) {
            if (std::memcmp(row + size_t(i) * sizeof(T), open ? all_visible.data() : all_hidden.data(), sizeof(Step)) ==
                0) {
                i = end;
                continue;
            }
            T n_hidden = 0; // in the elements' own type: that many fit into one register
            for (int64_t j = 0; j < step; ++j) n_hidden = static_cast<T>(n_hidden + (element<T>(row, i + j) == hidden));
            if (n_hidden == (open ? 0 : step)) {
                i = end;
                continue;
            }
        }
        for (; i < end; ++i) {
            const bool visible = element<T>(row, i) != hidden;
            if (visible == open) continue;
            if (visible) {
                ranges.push_back({i, n});
            } else {
                ranges.back().end = i;
            }
            open = visible;
        }
    }
    return ranges;
}

void merge(Ranges& ranges) {
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    size_t kept = 0;
    for (size_t i = 1; i < ranges.size(); ++i) {
        if (ranges[i].begin <= ranges[kept].end) {
            ranges[kept].end = std::max(ranges[kept].end, ranges[i].end);
        } else {
            ranges[++kept] = ranges[i];
        }
    }
    if (!ranges.empty()) ranges.resize(kept + 1);
}

} // namespace

void CellMap::assign(int64_t cell, int64_t column, int32_t position) {
    if (cell < 0) return;
    if (size_t(cell) >= columns_.size()) {
        columns_.resize(size_t(cell) + 1, unknown);
        positions_.resize(size_t(cell) + 1, 0);
        breaks_.resize(size_t(cell) / 64 + 1, ~uint64_t{0});
    }
    columns_[size_t(cell)] = column;
    in_order_ = in_order_ && column == cell;
    positions_[size_t(cell)] = position;
    mark(cell);
    if (size_t(cell) + 1 < columns_.size()) mark(cell + 1);
}

void CellMap::copy(int64_t from, int64_t to, int64_t n, int64_t end) {
    for (int64_t i = 0; i < n && size_t(from + i) < columns_.size(); ++i) {
        const int64_t held = column(from + i);
        if (held != unknown && held < end) assign(to + i, held, positions_[size_t(from + i)]);
    }
}

void CellMap::mark(int64_t cell) {
    const int64_t before = cell > 0 ? column(cell - 1) : unknown;
    const bool goes_on = before != unknown && column(cell) == before + 1;
    const uint64_t bit = uint64_t{1} << (size_t(cell) % 64);
    uint64_t& word = breaks_[size_t(cell) / 64];
    word = goes_on ? word & ~bit : word | bit;
}

// The first cell in (cell, end) that breaks the run of `cell`; `end` where none does.
int64_t CellMap::run_end(int64_t cell, int64_t end) const {
    const size_t from = size_t(cell) + 1;
    for (size_t w = from / 64; w * 64 < size_t(end); ++w) {
        uint64_t word = breaks_[w];
        if (w == from / 64) word &= ~uint64_t{0} << (from % 64);
        if (word != 0) return std::min(end, static_cast<int64_t>(w * 64) + std::countr_zero(word));
    }
    return end;
}

void CellMap::clear() {
    columns_.clear();
    positions_.clear();
    breaks_.clear();
    in_order_ = true;
}

Ranges CellMap::columns_of(std::span<const Range> cells, int64_t* n_unknown) const {
    Ranges ranges;
    const auto n_known = static_cast<int64_t>(columns_.size());
    for (const Range& r : cells) {
        *n_unknown += std::max<int64_t>(0, r.end - std::max(r.begin, n_known));
        const int64_t end = std::min(r.end, n_known);
        for (int64_t cell = r.begin, next = 0; cell < end; cell = next) {
            next = run_end(cell, end);
            const int64_t c = column(cell);
            if (c == unknown) {
                *n_unknown += next - cell;
            } else if (!ranges.empty() && ranges.back().end == c) {
                ranges.back().end = c + next - cell;
            } else {
                ranges.push_back({c, c + next - cell});
            }
        }
    }
    merge(ranges);
    return ranges;
}

std::vector<int64_t> CellView::columns() const {
    std::vector<int64_t> all(map_->columns().begin(), map_->columns().end());
    for (const Entry& e : before_) all[size_t(e.cell)] = e.column;
    return all;
}

std::vector<int32_t> CellView::positions() const {
    std::vector<int32_t> all(map_->positions().begin(), map_->positions().end());
    for (const Entry& e : before_) all[size_t(e.cell)] = e.position;
    return all;
}

Ranges visible_cells(const ggml_tensor* mask, const uint8_t* data, int64_t row) {
    const uint8_t* start = data + size_t(row) * nb(mask, 1);
    return type(mask) == GGML_TYPE_F16 ? scan<uint16_t>(start, ne(mask, 0), f16_minus_inf)
                                       : scan<uint32_t>(start, ne(mask, 0), f32_minus_inf);
}

} // namespace attnscope::capture
