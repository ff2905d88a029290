// What each policy drops.
#include <attnscope/prune.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

using namespace attnscope;

namespace {

std::vector<int64_t> kept_by(const PruneRequest& request) {
    auto result = prune(request);
    EXPECT_TRUE(result) << (result ? "" : result.error().message);
    return result ? result->kept_tokens : std::vector<int64_t>{};
}

using Kept = std::vector<int64_t>;

} // namespace

TEST(Prune, TovaAndBrightnessKeepTheHighestScores) {
    const double scores[] = {5, 1, 4, 2, 3};
    for (const PrunePolicy policy : {PrunePolicy::tova, PrunePolicy::brightness})
        EXPECT_EQ(kept_by({.policy = policy, .scores = scores, .budget = 3, .recent = 2}), (Kept{0, 2, 4}));
}

TEST(Prune, H2oKeepsTheRecentWhateverTheyScore) {
    const double scores[] = {5, 3, 4, 0, 0};
    EXPECT_EQ(kept_by({.policy = PrunePolicy::h2o, .scores = scores, .budget = 3, .recent = 2}), (Kept{0, 3, 4}));
}

TEST(Prune, SnapkvSmoothsOverNeighbours) {
    // one spike at 2; its neighbours rise with it, 6 alone is higher than they are by themselves
    const double scores[] = {0, 1, 30, 1, 0, 0, 9, 0, 0, 0};
    EXPECT_EQ(kept_by({.policy = PrunePolicy::snapkv, .scores = scores, .budget = 5, .recent = 1, .pool = 3}),
              (Kept{1, 2, 3, 7, 9}));
    EXPECT_EQ(kept_by({.policy = PrunePolicy::snapkv, .scores = scores, .budget = 4, .recent = 1, .pool = 1}),
              (Kept{2, 3, 6, 9}));
    const auto smoothed = prune({.policy = PrunePolicy::snapkv, .scores = scores, .pool = 3});
    ASSERT_TRUE(smoothed);
    EXPECT_DOUBLE_EQ(smoothed.value().chunk_scores[0], 1.0 / 3); // a zero lies before the first
    EXPECT_DOUBLE_EQ(smoothed.value().chunk_scores[2], 32.0 / 3);
}

TEST(Prune, ChunksLeaveWholeByTheirMeanAndPinnedOnesStay) {
    const double scores[] = {9, 9, /**/ 1, 1, 1, 1, /**/ 3, /**/ 2, 2};
    const Range chunks[] = {{0, 2}, {2, 6}, {6, 7}, {7, 9}};
    const auto result = prune({.scores = scores, .chunks = chunks, .budget = 5});
    ASSERT_TRUE(result);
    EXPECT_EQ(result.value().chunk_scores, (std::vector<double>{9, 1, 3, 2}));
    EXPECT_EQ(result.value().dropped, (std::vector<int64_t>{1}));
    EXPECT_EQ(result.value().dropped_tokens, (Ranges{{2, 6}}));
    EXPECT_EQ(result.value().kept_tokens, (Kept{0, 1, 6, 7, 8}));
    EXPECT_TRUE(result.value().fits);

    const int64_t pinned[] = {1};
    const auto pinned_result = prune({.scores = scores, .chunks = chunks, .pinned = pinned, .budget = 5});
    ASSERT_TRUE(pinned_result);
    EXPECT_EQ(pinned_result.value().dropped, (std::vector<int64_t>{0, 2, 3}));
    EXPECT_EQ(pinned_result.value().dropped_tokens, (Ranges{{0, 2}, {6, 9}}));

    const auto too_much = prune({.scores = scores, .chunks = chunks, .pinned = pinned, .budget = 2});
    ASSERT_TRUE(too_much);
    EXPECT_FALSE(too_much.value().fits);
    EXPECT_EQ(too_much.value().kept_tokens, (Kept{2, 3, 4, 5}));
}

TEST(Prune, AChunkWithARecentTokenStays) {
    const double scores[] = {1, 1, 0, 0, 0};
    const Range chunks[] = {{0, 2}, {2, 4}, {4, 5}};
    const auto result =
        prune({.policy = PrunePolicy::h2o, .scores = scores, .chunks = chunks, .budget = 3, .recent = 2});
    ASSERT_TRUE(result);
    EXPECT_EQ(result.value().dropped, (std::vector<int64_t>{0}));
}

TEST(Prune, OlderTokensLeaveFirstAmongEquals) {
    const double scores[] = {1, 1, 1, 1};
    EXPECT_EQ(kept_by({.scores = scores, .budget = 2}), (Kept{2, 3}));
}

TEST(Prune, WhatIsKeptAndWhatIsDroppedAreEverything) {
    std::mt19937 rng(4);
    for (int trial = 0; trial < 200; ++trial) {
        std::vector<double> scores(rng() % 60);
        for (double& s : scores) s = static_cast<double>(rng() % 10);
        std::vector<Range> chunks;
        for (int64_t at = 0; at < static_cast<int64_t>(scores.size());) {
            const int64_t n = std::min<int64_t>(static_cast<int64_t>(scores.size()) - at, 1 + rng() % 7);
            chunks.push_back({at, at + n});
            at += n;
        }
        PruneRequest request{.policy = static_cast<PrunePolicy>(rng() % 4), .scores = scores, .chunks = chunks};
        request.budget = static_cast<int64_t>(rng() % 60);
        request.recent = static_cast<int64_t>(rng() % 20);
        const auto result = prune(request);
        ASSERT_TRUE(result);
        std::vector<int64_t> all = result.value().kept_tokens;
        for (const Range& r : result.value().dropped_tokens) {
            for (int64_t i = r.begin; i < r.end; ++i) all.push_back(i);
        }
        std::sort(all.begin(), all.end());
        std::vector<int64_t> want(scores.size());
        std::iota(want.begin(), want.end(), 0);
        EXPECT_EQ(all, want);
        EXPECT_EQ(result.value().fits, static_cast<int64_t>(result.value().kept_tokens.size()) <= request.budget);
        const bool fitted = static_cast<int64_t>(scores.size()) <= request.budget;
        EXPECT_TRUE(!fitted || result.value().dropped.empty());
    }
}

TEST(Prune, RefusesInWordsThatNameTheField) {
    const double scores[] = {1, 2, 3};
    const auto refused = [&](PruneRequest request, const std::string& field) {
        if (request.scores.empty()) request.scores = scores;
        const auto result = prune(request);
        ASSERT_FALSE(result) << field;
        EXPECT_TRUE(result.error().message.starts_with(field)) << result.error().message;
    };
    const Range gap[] = {{0, 1}, {2, 3}}, short_of[] = {{0, 2}}, beyond[] = {{0, 4}}, empty[] = {{0, 0}, {0, 3}};
    refused({.chunks = gap}, "chunks");
    refused({.chunks = short_of}, "chunks");
    refused({.chunks = beyond}, "chunks");
    refused({.chunks = empty}, "chunks");
    const int64_t pinned[] = {3};
    refused({.pinned = pinned}, "pinned");
    refused({.budget = -1}, "budget");
    refused({.recent = -1}, "recent");
    refused({.pool = 4}, "pool");
    const double infinite[] = {1, std::numeric_limits<double>::infinity()};
    refused({.scores = infinite}, "scores");
    EXPECT_TRUE(prune({}));
}
