// Scores of positions against their formulas, and against Halo Weave's rule written as it is stated.
#include <attnscope/position_scores.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

using namespace attnscope;

namespace {

// Rows of growing length, as a generation brings them.
std::vector<std::vector<float>> random_rows(size_t first, size_t n, std::mt19937& rng) {
    std::vector<std::vector<float>> rows;
    std::exponential_distribution<float> weight;
    for (size_t t = 0; t < n; ++t) {
        std::vector<float> row(first + t);
        float sum = 0;
        for (float& x : row) {
            x = std::pow(weight(rng), 3.0f);
            sum += x;
        }
        row[0] += sum; // an attention sink
        for (float& x : row) x /= 2 * sum;
        rows.push_back(std::move(row));
    }
    return rows;
}

} // namespace

TEST(PositionScores, FollowTheirFormulas) {
    std::mt19937 rng(1);
    for (int trial = 0; trial < 40; ++trial) {
        const auto rows = random_rows(1 + rng() % 50, 1 + rng() % 80, rng);
        const auto W = static_cast<int32_t>(1 + rng() % 40);
        PositionScores scores(W);
        for (const auto& row : rows) scores.add(row);
        const size_t n = rows.back().size();
        ASSERT_EQ(scores.n_positions(), static_cast<int64_t>(n));
        const size_t window = std::min(rows.size(), static_cast<size_t>(W));
        for (size_t j = 0; j < n; ++j) {
            double total = 0, recent = 0;
            int64_t visits = 0;
            for (size_t t = 0; t < rows.size(); ++t) {
                if (j >= rows[t].size()) continue;
                total += static_cast<double>(rows[t][j]);
                if (t + window >= rows.size()) recent += static_cast<double>(rows[t][j]);
                ++visits;
            }
            ASSERT_NEAR(scores.total()[j], total, 1e-12);
            ASSERT_EQ(scores.visits()[j], visits);
            ASSERT_NEAR(scores.mean()[j], total / static_cast<double>(visits), 1e-12);
            ASSERT_NEAR(scores.window_mean()[j], recent / static_cast<double>(window), 1e-12);
            ASSERT_EQ(scores.last()[j], static_cast<double>(rows.back()[j]));
        }
    }
}

TEST(PositionScores, BrightnessIsHaloWeavesRule) {
    std::mt19937 rng(2);
    const double cap = 10000;
    for (int trial = 0; trial < 40; ++trial) {
        const auto rows = random_rows(1 + rng() % 50, 1 + rng() % 80, rng);
        PositionScores scores;
        std::vector<double> want;
        for (const auto& row : rows) {
            scores.add(row);
            const double n = static_cast<double>(row.size());
            while (want.size() < row.size()) want.push_back(cap);
            if (row.size() < 2) continue;
            double sink = 0;
            for (const float a : row) sink = std::max(sink, static_cast<double>(a));
            const double t = (1 - sink) / n; // of n + 1 tokens, the new one among them, less one
            for (size_t j = 0; j < row.size(); ++j) {
                const auto a = static_cast<double>(row[j]);
                want[j] = a > t ? std::min(cap, want[j] + std::floor(a / t)) : want[j] - 1;
            }
        }
        for (size_t j = 0; j < want.size(); ++j) ASSERT_EQ(scores.brightness()[j], want[j]) << j;
    }
}

TEST(PositionScores, BrightnessSurvivesRowsThatGiveOnePositionEverything) {
    PositionScores scores;
    const float all_on_one[] = {0.0f, 1.0f, 0.0f};
    scores.add(all_on_one);
    EXPECT_EQ(scores.brightness()[0], 9999);
    EXPECT_EQ(scores.brightness()[1], 10000);
    const float above_one[] = {0.0f, 1.0000001f, 0.0f};
    scores.add(above_one);
    EXPECT_EQ(scores.brightness()[0], 9998);
    EXPECT_EQ(scores.brightness()[1], 10000);
    const float alone[] = {1.0f};
    scores.add(alone);
    EXPECT_EQ(scores.brightness()[0], 9998);
}

TEST(PositionScores, ABrokenRowIsCountedApart) {
    PositionScores scores;
    const float good[] = {0.5f, 0.5f};
    const float broken[] = {0.5f, std::numeric_limits<float>::quiet_NaN(), 0.5f};
    scores.add(good);
    scores.add(broken);
    EXPECT_EQ(scores.n_rows(), 1);
    EXPECT_EQ(scores.n_skipped(), 1);
    EXPECT_EQ(scores.n_positions(), 2);
    EXPECT_EQ(scores.total()[0], 0.5);
}

TEST(PositionScores, KeptPositionsTakeTheirScoresAlong) {
    std::mt19937 rng(3);
    const auto rows = random_rows(5, 10, rng);
    PositionScores scores(4);
    for (const auto& row : rows) scores.add(row);
    const PositionScores before = scores;
    const int64_t kept[] = {0, 2, 3, 9, 13};
    ASSERT_TRUE(scores.keep(kept));
    ASSERT_EQ(scores.n_positions(), 5);
    for (size_t i = 0; i < 5; ++i) {
        const auto j = static_cast<size_t>(kept[i]);
        EXPECT_EQ(scores.total()[i], before.total()[j]);
        EXPECT_EQ(scores.visits()[i], before.visits()[j]);
        EXPECT_EQ(scores.brightness()[i], before.brightness()[j]);
        EXPECT_EQ(scores.window_mean()[i], before.window_mean()[j]);
        EXPECT_EQ(scores.last()[i], before.last()[j]);
    }
    for (const auto& wrong : {std::vector<int64_t>{0, 0}, {3, 2}, {-1}, {5}}) EXPECT_FALSE(scores.keep(wrong));
    EXPECT_EQ(scores.n_positions(), 5);
    scores.truncate(2);
    EXPECT_EQ(scores.n_positions(), 2);
    EXPECT_EQ(scores.last().size(), 2u);
}
