// Runs of cells, and the cells that a write to a cache is to.
#include "attach/inside/cache_contents.h"
#include "attach/inside/cell_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

using namespace attnscope;
using attach::CacheMemory;
using attach::cells_at;
using attach::CellSet;

TEST(AttachCellSet, HoldsWhatASetOfNumbersWould) {
    std::mt19937 random(3);
    const auto number = [&](int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(random); };
    constexpr int64_t n = 40;
    CellSet set;
    std::vector<bool> expected(n);
    const auto as_ranges = [](const std::vector<bool>& cells) {
        Ranges ranges;
        for (int64_t c = 0; c < n; ++c) {
            if (!cells[size_t(c)]) continue;
            if (!ranges.empty() && ranges.back().end == c)
                ++ranges.back().end;
            else
                ranges.push_back({c, c + 1});
        }
        return ranges;
    };
    for (int i = 0; i < 20000; ++i) {
        const int64_t begin = number(n), end = std::min(n, begin + number(9));
        const bool adds = number(2) == 0;
        bool changed = false;
        for (int64_t c = begin; c < end; ++c) {
            changed |= adds && !expected[size_t(c)];
            expected[size_t(c)] = adds;
        }
        if (adds)
            EXPECT_EQ(set.add({begin, end}), changed);
        else
            set.remove({begin, end});
        ASSERT_EQ(set.ranges(), as_ranges(expected)) << i;
        EXPECT_EQ(set.empty(), as_ranges(expected).empty());
        std::vector<bool> others(n), both(n);
        for (int64_t c = 0; c < n; ++c) {
            others[size_t(c)] = number(2) == 0;
            both[size_t(c)] = others[size_t(c)] && expected[size_t(c)];
        }
        EXPECT_EQ(set.both(as_ranges(others)), as_ranges(both));
    }
}

TEST(AttachCellSet, AWriteIsToTheCellsThatItsBytesAreOf) {
    CacheMemory keys;
    keys.begin = 1000, keys.end = 1000 + 8 * 16;
    keys.cell = 16;
    EXPECT_EQ(cells_at(keys, 1000, 1016), (Ranges{{0, 1}}));
    EXPECT_EQ(cells_at(keys, 1015, 1033), (Ranges{{0, 3}}));
    EXPECT_EQ(cells_at(keys, 1000, keys.end), (Ranges{{0, 8}}));
    EXPECT_EQ(cells_at(keys, 1016, 1016), Ranges{});
    CacheMemory values = keys;
    values.cell = 0, values.value_cell = 16;
    EXPECT_EQ(cells_at(values, 1015, 1033), (Ranges{{0, 3}}));
}

// Two streams of 8 cells; rows of 3 elements of 2 bytes, the first of all cells before the second ones.
TEST(AttachCellSet, OfValuesThatLieByElements) {
    CacheMemory values;
    values.begin = 1000, values.end = 1000 + 2 * 48;
    values.value_cell = 2, values.value_element = 16, values.stream = 48;
    EXPECT_EQ(cells_at(values, 1000, 1004), (Ranges{{0, 2}}));
    EXPECT_EQ(cells_at(values, 1016 + 6, 1016 + 10), (Ranges{{3, 5}})); // of the second elements
    EXPECT_EQ(cells_at(values, 1048 + 32 + 6, 1048 + 32 + 10),
              (Ranges{{11, 13}}));                                       // of the third ones of the second stream
    EXPECT_EQ(cells_at(values, 1000 + 14, 1000 + 18), (Ranges{{0, 8}})); // of the first and the second ones
    EXPECT_EQ(cells_at(values, 1000 + 44, 1048 + 4), (Ranges{{0, 16}})); // of both streams
    EXPECT_EQ(cells_at(values, values.begin, values.end), (Ranges{{0, 16}}));
}
