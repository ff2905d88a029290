// The statistics behind attnscope bench.
#include "cli/paired_ratio.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace attnscope::cli {
namespace {

TEST(Spread, GivesMedianAndQuartilesOfWhatItWasGiven) {
    const Spread odd = spread({5, 1, 3, 2, 4});
    EXPECT_EQ(odd.median, 3);
    EXPECT_EQ(odd.low, 2);
    EXPECT_EQ(odd.high, 4);
    EXPECT_EQ(spread({4, 1, 2, 3}).median, 2.5);
    EXPECT_EQ(spread({7}).sure_low, 7);
    EXPECT_EQ(spread({7}).sure_high, 7);
    EXPECT_EQ(spread({}).median, 0);
}

// Against what it promises, on a distribution such as timings have: skewed, with a long tail.
TEST(Spread, IntervalHoldsTheTrueMedianAsOftenAsItSays) {
    std::mt19937 random(1);
    for (const size_t n : {6u, 12u, 20u, 99u, 100u, 400u}) {
        int held = 0;
        constexpr int repeats = 2000;
        for (int i = 0; i < repeats; ++i) {
            std::lognormal_distribution<double> timings(0.0, 1.0); // its median is 1
            std::vector<double> x(n);
            for (double& v : x) v = timings(random);
            const Spread s = spread(x);
            EXPECT_LE(s.sure_low, s.median);
            EXPECT_GE(s.sure_high, s.median);
            held += s.sure_low <= 1 && 1 <= s.sure_high;
        }
        EXPECT_GE(held, repeats * 0.94) << n << " values";
        EXPECT_LE(held, repeats * 0.985) << n << " values: wider than it needs to be";
    }
}

// An interval that did not narrow would say nothing about a cost of 1%.
TEST(Spread, IntervalNarrowsWithTheSquareRootOfTheNumber) {
    const auto width = [](size_t n) {
        std::vector<double> x(n);
        for (size_t i = 0; i < n; ++i) x[i] = double(i) / double(n);
        const Spread s = spread(x);
        return s.sure_high - s.sure_low;
    };
    EXPECT_NEAR(width(100) / width(10000), 10, 1.5);
}

// One stall of the machine in a hundred moves a mean, and must not move what is said here.
TEST(Spread, StallsDoNotMoveIt) {
    std::vector<double> x(100, 1.01);
    for (size_t i = 0; i < 30; ++i) x[i] = 50;
    EXPECT_EQ(spread(x).median, 1.01);
    EXPECT_EQ(spread(x).sure_high, 1.01);
}

} // namespace
} // namespace attnscope::cli
