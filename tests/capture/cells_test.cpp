// From cells to columns, against a plain walk over them.
#include "capture/graph/cells.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

using namespace attnscope;
using namespace attnscope::capture;

namespace {

Ranges plain(const std::vector<int64_t>& columns, const Ranges& cells, int64_t& n_unknown) {
    std::set<int64_t> seen;
    for (const Range& r : cells) {
        for (int64_t c = r.begin; c < r.end; ++c) {
            const int64_t column = c < static_cast<int64_t>(columns.size()) ? columns[size_t(c)] : CellMap::unknown;
            if (column == CellMap::unknown)
                ++n_unknown;
            else
                seen.insert(column);
        }
    }
    Ranges ranges;
    for (const int64_t c : seen) {
        if (!ranges.empty() && ranges.back().end == c)
            ++ranges.back().end;
        else
            ranges.push_back({c, c + 1});
    }
    return ranges;
}

bool same(const Ranges& a, const Ranges& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const Range& x, const Range& y) { return x.begin == y.begin && x.end == y.end; });
}

} // namespace

TEST(CellMap, ColumnsAreThoseOfAPlainWalkOverTheCells) {
    for (uint32_t seed = 1; seed <= 300; ++seed) {
        std::mt19937 rng(seed);
        const auto below = [&](int64_t n) { return static_cast<int64_t>(rng() % static_cast<uint64_t>(n)); };
        const int64_t n_cells = 1 + below(400);
        CellMap map;
        std::vector<int64_t> columns;
        int64_t next = 0;
        for (int64_t step = below(12); step >= 0; --step) {
            // Runs of new frames, from anywhere: rings that wrap, holes that are filled, cells taken again.
            int64_t cell = below(n_cells);
            for (int64_t n = below(200); n >= 0; --n, cell = (cell + 1) % n_cells) {
                if (columns.size() <= size_t(cell)) columns.resize(size_t(cell) + 1, CellMap::unknown);
                columns[size_t(cell)] = next;
                map.assign(cell, next++, 0);
            }
        }
        for (int i = 0; i < 20; ++i) {
            Ranges cells;
            for (int64_t at = below(50); at < n_cells + 80; at += 1 + below(100)) {
                const int64_t end = at + 1 + below(150);
                cells.push_back({at, end});
                at = end;
            }
            int64_t n_unknown = 0, n_plain = 0;
            const Ranges got = map.columns_of(cells, &n_unknown);
            ASSERT_TRUE(same(got, plain(columns, cells, n_plain))) << "seed " << seed;
            ASSERT_EQ(n_unknown, n_plain) << "seed " << seed;
        }
        map.clear();
        int64_t n_unknown = 0;
        const Range all{0, n_cells};
        EXPECT_TRUE(map.columns_of({&all, 1}, &n_unknown).empty());
        EXPECT_EQ(n_unknown, n_cells);
    }
}

TEST(CellMap, KnowsWhileEveryCellHoldsTheFrameOfItsNumber) {
    CellMap map;
    EXPECT_TRUE(map.in_order());
    for (int64_t i = 0; i < 40; ++i) map.assign(i, i, static_cast<int32_t>(i));
    map.assign(12, 12, 12); // the same token again, as behind a cut
    EXPECT_TRUE(map.in_order());
    EXPECT_TRUE(CellView(map, {}).in_order());
    const std::vector<CellView::Entry> before = {{3, 3, 3}};
    EXPECT_FALSE(CellView(map, before).in_order());
    map.assign(3, 40, 40); // a ring
    EXPECT_FALSE(map.in_order());
    map.clear();
    EXPECT_TRUE(map.in_order());
    map.assign(5, 0, 0); // an engine that begins elsewhere
    EXPECT_FALSE(map.in_order());
}
