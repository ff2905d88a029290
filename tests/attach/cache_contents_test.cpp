// What a cell of a cache holds is told by its keys.
#include "attach/inside/cache_contents.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

using namespace attnscope::attach;

namespace {

const std::vector<uint8_t> key{1, 2, 3, 4}, other{1, 2, 3, 5};

std::vector<int64_t> lines_of(const CacheContents& contents, uint64_t all) {
    std::vector<int64_t> lines;
    for (const KnownToken& t : contents.find(key, [&] { return all; })) lines.push_back(t.line);
    return lines;
}

} // namespace

using Lines = std::vector<int64_t>;

// Somebody unknown has read the text another time: the same key in the layer that is asked, and others elsewhere.
TEST(AttachCacheContents, ATokenIsThatOfAllItsKeys) {
    CacheContents contents;
    contents.remember(key, 100, {7, 3, 3});
    EXPECT_EQ(lines_of(contents, 100), Lines{7});
    EXPECT_EQ(lines_of(contents, 101), Lines{});
    contents.remember(key, 101, {8, 3, 3});
    EXPECT_EQ(lines_of(contents, 100), Lines{7});
    EXPECT_EQ(lines_of(contents, 101), Lines{8});
    EXPECT_TRUE(contents.find(other, [] { return uint64_t{100}; }).empty());
}

TEST(AttachCacheContents, OfATextThatWasReadTwiceBothReadingsAreKnown) {
    CacheContents contents;
    contents.remember(key, 100, {7, 3, 3});
    contents.remember(key, 100, {8, 3, 3});
    EXPECT_EQ(lines_of(contents, 100), (Lines{7, 8}));
}

TEST(AttachCacheContents, ALinesTokensAreKnownByTheirPlaces) {
    CacheContents contents;
    for (int i = 0; i < 5; ++i) contents.remember(key, uint64_t(100 + i), {7, 3 + i, 3 + i});
    for (int i = -1; i < 9; ++i) EXPECT_EQ(contents.holds(uint64_t(100 + i), 7, 3 + i), i >= 0 && i < 5) << i;
    EXPECT_FALSE(contents.holds(100, 7, 4));
    EXPECT_FALSE(contents.holds(100, 8, 3));
    contents.remember(key, 200, {7, 5, 5}); // taken back, and gone on otherwise
    EXPECT_TRUE(contents.holds(101, 7, 4));
    EXPECT_TRUE(contents.holds(200, 7, 5));
    EXPECT_FALSE(contents.holds(103, 7, 6));
}

// Of one key as many readings as there were, and no end of memory.
TEST(AttachCacheContents, TheOldestLinesAreForgotten) {
    CacheContents contents;
    constexpr int64_t n = (int64_t{1} << 20) + 10;
    for (int64_t i = 0; i < n; ++i) contents.remember(key, 100, {i / 2, i % 2, 0});
    EXPECT_FALSE(contents.holds(100, 0, 0));
    EXPECT_FALSE(contents.holds(100, 4, 1));
    EXPECT_TRUE(contents.holds(100, 5, 0));
    EXPECT_TRUE(contents.holds(100, n / 2 - 1, 1));
}
