// Scores no healthy model produces, but a broken recording may.
#include "attention/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

// One head whose score at column j is exactly scores[j]: q is (1, 0, ...), k[j] is (scores[j], 0, ...).
Sample with_scores(const std::vector<float>& scores) {
    std::mt19937 rng(0);
    LayerInfo l = make_layer(DType::f32, 1, 1, 32);
    l.scale = 1.0f;
    Sample s = make_sample(l, static_cast<int64_t>(scores.size()), rng);
    std::vector<float> q(32);
    q[0] = 1.0f;
    s.q = encode(DType::f32, q);
    for (size_t j = 0; j < scores.size(); ++j) {
        std::vector<float> k(32);
        k[0] = scores[j];
        s.keys[j] = encode(DType::f32, k);
    }
    std::mt19937 layout(1);
    s.lay_out(layout);
    return s;
}

std::vector<float> rows_of(const Sample& s, const attention::RowKernels& kernels) {
    std::vector<float> rows(s.keys.size(), 7.0f);
    EXPECT_TRUE(attention::attention_rows_with(kernels, s.request(), rows));
    return rows;
}

} // namespace

TEST(ExtremeScores, TensOfThousandsNeitherOverflowNorLoseTheOthers) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        const auto rows =
            rows_of(with_scores({1e4f, -1e4f, 1e4f, 9999.0f, 0.0f, 1e4f, -1e30f, 9900.0f, -5.0f}), *kernels);
        const double e = 3 + std::exp(-1.0);
        EXPECT_NEAR(static_cast<double>(rows[0]), 1 / e, 1e-6);
        EXPECT_NEAR(static_cast<double>(rows[3]), std::exp(-1.0) / e, 1e-6);
        EXPECT_EQ(rows[1], 0.0f);
        EXPECT_EQ(rows[6], 0.0f);
    }
}

TEST(ExtremeScores, MinusInfinityWeighsExactlyNothing) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        const auto rows = rows_of(with_scores({-infinity, 1.0f, -infinity, 1.0f}), *kernels);
        EXPECT_EQ(rows, (std::vector<float>{0.0f, 0.5f, 0.0f, 0.5f}));
    }
}

TEST(ExtremeScores, NanSpreadsOverWhatIsVisibleAndNoFurther) {
    for (const float broken : {nan_value, infinity}) {
        for (const size_t n : {3u, 8u, 21u}) {
            std::vector<float> scores(n, 0.5f);
            scores[n - 2] = broken;
            Sample s = with_scores(scores);
            s.visible = {{1, s.n_columns()}};
            for (const attention::RowKernels* kernels : all_kernels()) {
                const auto rows = rows_of(s, *kernels);
                EXPECT_EQ(rows[0], 0.0f);
                for (size_t j = 1; j < n; ++j) EXPECT_TRUE(std::isnan(rows[j])) << kernels->name << " column " << j;
            }
            s.visible = {{0, static_cast<int64_t>(n) - 2}};
            for (const attention::RowKernels* kernels : all_kernels()) EXPECT_EQ(rows_of(s, *kernels)[n - 1], 0.0f);
        }
    }
}

TEST(ExtremeScores, NothingButMinusInfinityIsNanAsInTheEngine) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        for (const float w : rows_of(with_scores({-infinity, -infinity}), *kernels)) EXPECT_TRUE(std::isnan(w));
    }
}

TEST(ExtremeScores, ASoftcapHoldsThem) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        Sample s = with_scores({1e30f, -1e30f, 0.0f, 1e-30f});
        s.layer.softcap = 1.0f;
        const auto rows = rows_of(s, *kernels);
        const double e = std::exp(1.0) + std::exp(-1.0) + 2;
        EXPECT_NEAR(static_cast<double>(rows[0]), std::exp(1.0) / e, 1e-6);
        EXPECT_NEAR(static_cast<double>(rows[1]), std::exp(-1.0) / e, 1e-6);
        EXPECT_NEAR(static_cast<double>(rows[2]), 1 / e, 1e-6);
    }
}

TEST(ExtremeScores, RandomBytesAsKeysDoNoHarm) {
    std::mt19937 rng(3);
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                             DType::q5_1, DType::iq4_nl}) {
        Sample s = make_sample(make_layer(type, 2, 3, 64), 70, rng);
        for (auto& k : s.keys) {
            for (uint8_t& b : k) b = static_cast<uint8_t>(rng());
        }
        for (uint8_t& b : s.q) b = static_cast<uint8_t>(rng());
        s.lay_out(rng);
        for (const attention::RowKernels* kernels : all_kernels()) {
            std::vector<float> rows(6 * 70);
            std::vector<float> lse(6);
            EXPECT_TRUE(attention::attention_rows_with(*kernels, s.request(), rows, lse));
            for (const float w : rows) EXPECT_TRUE(std::isnan(w) || (w >= 0.0f && w <= 1.000001f));
        }
    }
}

TEST(ExtremeScores, ASinkFarAboveThemTakesEverything) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        Sample s = with_scores({1.0f, -2.0f, 3.0f});
        s.layer.sinks = {1e4f};
        std::vector<float> rows(3);
        std::vector<float> lse(1);
        ASSERT_TRUE(attention::attention_rows_with(*kernels, s.request(), rows, lse));
        EXPECT_EQ(rows, (std::vector<float>{0.0f, 0.0f, 0.0f}));
        EXPECT_EQ(lse[0], 1e4f);
    }
}

TEST(ExtremeScores, ABrokenSinkShows) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        for (const float broken : {nan_value, infinity}) {
            Sample s = with_scores({1.0f, -2.0f, 3.0f});
            s.layer.sinks = {broken};
            for (const float w : rows_of(s, *kernels)) EXPECT_TRUE(std::isnan(w));
        }
    }
}
