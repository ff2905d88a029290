#include "base/hash64.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstddef>
#include <random>
#include <vector>

namespace attnscope::base {
namespace {

// Of every length at which XXH3 goes another way, and of all those around them.
TEST(Hash64, IsWhatTheLibraryComputes) {
    std::mt19937 random(3);
    std::vector<uint8_t> bytes(5000);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
    for (size_t n = 0; n < bytes.size(); n += n < 600 ? 1 : 61) {
        EXPECT_EQ(hash64({bytes.data(), n}), XXH3_64bits(bytes.data(), n)) << n;
        for (const uint64_t seed : {uint64_t(1), ~uint64_t(0)}) {
            EXPECT_EQ(hash64({bytes.data(), n}, seed), XXH3_64bits_withSeed(bytes.data(), n, seed)) << n;
            EXPECT_EQ(hash64_plain(bytes.data(), n, seed), XXH3_64bits_withSeed(bytes.data(), n, seed)) << n;
        }
    }
}

} // namespace
} // namespace attnscope::base
