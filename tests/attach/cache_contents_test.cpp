// What a cell of a cache holds is told by its keys.
#include "attach/inside/cache_contents.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <vector>

using namespace attnscope::attach;

namespace {

const std::vector<uint8_t> key{1, 2, 3, 4}, other{1, 2, 3, 5};

int64_t line_of(const CacheContents& contents, uint64_t all, std::optional<KnownToken> before = {}) {
    const auto found = contents.find(
        key, [&] { return all; }, before);
    return found ? found->line : -1;
}

} // namespace

// Somebody unknown has read the text another time: the same key in the layer that is asked, and others elsewhere.
TEST(AttachCacheContents, ATokenIsThatOfAllItsKeys) {
    CacheContents contents;
    contents.remember(key, 100, {7, 3, 3});
    EXPECT_EQ(line_of(contents, 100), 7);
    EXPECT_EQ(line_of(contents, 101), -1);
    contents.remember(key, 101, {8, 3, 3});
    EXPECT_EQ(line_of(contents, 100), 7);
    EXPECT_EQ(line_of(contents, 101), 8);
    EXPECT_FALSE(contents.find(other, [] { return uint64_t{100}; }, {}));
}

TEST(AttachCacheContents, OfEqualReadingsTheLineGoesOnThatTheCellBeforeIsOf) {
    CacheContents contents;
    contents.remember(key, 100, {7, 3, 3});
    contents.remember(key, 100, {8, 3, 3});
    EXPECT_EQ(line_of(contents, 100, KnownToken{7, 2, 2}), 7);
    EXPECT_EQ(line_of(contents, 100, KnownToken{8, 2, 2}), 8);
    EXPECT_EQ(line_of(contents, 100), 8);
}
