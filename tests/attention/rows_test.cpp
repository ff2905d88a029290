// Rows against a float64 reference.
#include "attention/kernels/simd.h"
#include "attention/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr DType key_types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,  DType::q4_0,
                               DType::q4_1, DType::q5_0, DType::q5_1, DType::iq4_nl};

} // namespace

TEST(Rows, EqualTheReferenceForRandomShapesOfEveryType) {
    std::mt19937 rng(1);
    for (const DType type : key_types) {
        for (int round = 0; round < 12; ++round) {
            const int32_t block = dtype_block(type);
            const int32_t head_dim =
                block > 1 ? 32 * static_cast<int32_t>(1 + rng() % 8) : static_cast<int32_t>(32 + rng() % 225);
            const auto n_head_kv = static_cast<int32_t>(1 + rng() % 3);
            const auto group = static_cast<int32_t>(1 + (round < 8 ? static_cast<unsigned>(round) : rng() % 20));
            Sample s =
                make_sample(make_layer(type, n_head_kv, group, head_dim), static_cast<int64_t>(1 + rng() % 150), rng);
            s.lay_out(rng);
            s.visible = random_ranges(s.n_columns(), rng);
            SCOPED_TRACE(std::string(dtype_name(type)) + " kv " + std::to_string(n_head_kv) + " group " +
                         std::to_string(group) + " dim " + std::to_string(head_dim));
            expect_reference(s);
        }
    }
}

TEST(Rows, FloatQueriesMeetKeysOf16Bits) {
    std::mt19937 rng(2);
    for (const DType type : {DType::f16, DType::bf16}) {
        LayerInfo l = make_layer(type, 2, 7, 128);
        l.q_type = DType::f32;
        expect_reference(make_sample(l, 100, rng));
    }
}

TEST(Rows, HeadsWiderThanTheConversionScratch) {
    std::mt19937 rng(3);
    LayerInfo l = make_layer(DType::f16, 1, 9, 5000);
    l.scale = 0.01f;
    expect_reference(make_sample(l, 11, rng));
}

TEST(Rows, SoftcapBendsScores) {
    std::mt19937 rng(4);
    LayerInfo l = make_layer(DType::f16, 2, 2, 64);
    l.softcap = 2.0f;
    expect_reference(make_sample(l, 77, rng));
    l.softcap = 50.0f; // Gemma 2
    expect_reference(make_sample(l, 77, rng));
    l.softcap = 5.0f, l.post_scale = 1.7f; // Grok scales after the tanh
    expect_reference(make_sample(l, 77, rng));
}

TEST(Rows, PostScaleMultipliesScores) {
    std::mt19937 rng(5);
    LayerInfo l = make_layer(DType::bf16, 2, 3, 64);
    l.post_scale = 0.3f;
    expect_reference(make_sample(l, 50, rng));
}

TEST(Rows, AlibiFollowsPositionsNotColumns) {
    std::mt19937 rng(6);
    for (const int32_t heads : {1, 2, 6, 7, 12, 16, 20, 71}) {
        LayerInfo l = make_layer(DType::f16, 1, heads, 64);
        l.max_bias = 8.0f;
        Sample s = make_sample(l, 90, rng);
        for (int32_t& p : s.positions) p = static_cast<int32_t>(rng() % 200);
        s.position = 120;
        s.visible = random_ranges(90, rng);
        expect_reference(s);
    }
}

TEST(Rows, AnAddedBiasFollowsDistancesToBothSides) {
    std::mt19937 rng(16);
    std::normal_distribution<float> normal;
    for (const int32_t reach : {0, 1, 20, 128}) {
        LayerInfo l = make_layer(DType::f32, 3, 2, 64);
        l.bias_reach = reach;
        l.bias.resize(static_cast<size_t>(l.n_head * (2 * reach + 1)));
        for (float& b : l.bias) b = 3 * normal(rng);
        Sample s = make_sample(l, 90, rng);
        for (int32_t& p : s.positions) p = static_cast<int32_t>(rng() % 400);
        s.position = 200;
        s.visible = random_ranges(90, rng);
        expect_reference(s);
        s.position = std::numeric_limits<int32_t>::min();
        expect_reference(s);
    }
}

TEST(Rows, DistancesOfExtremePositionsDoNotOverflow) {
    std::mt19937 rng(7);
    LayerInfo l = make_layer(DType::f32, 1, 2, 32);
    l.max_bias = 8.0f;
    Sample s = make_sample(l, 3, rng);
    s.position = std::numeric_limits<int32_t>::max();
    s.positions = {std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(), 0};
    std::vector<float> rows(6);
    ASSERT_TRUE(attention_rows(s.request(), rows));
    EXPECT_EQ(rows[1], 1.0f);
    EXPECT_EQ(rows[0], 0.0f);
}

TEST(Rows, SinksTakeTheirShare) {
    std::mt19937 rng(8);
    LayerInfo l = make_layer(DType::f16, 2, 8, 64);
    for (int32_t h = 0; h < l.n_head; ++h) l.sinks.push_back(static_cast<float>(h) - 6.0f);
    Sample s = make_sample(l, 60, rng);
    expect_reference(s);
    s.visible = {};
    expect_reference(s); // nothing to weigh: rows of zeros, the denominator is the sink's
}

TEST(Rows, ASinkThatIsMinusInfinityTakesNothing) {
    std::mt19937 rng(9);
    LayerInfo l = make_layer(DType::f16, 1, 1, 64);
    l.sinks = {-infinity};
    expect_reference(make_sample(l, 10, rng));
}

TEST(Rows, AQueryThatSeesNothingHasARowOfZeros) {
    std::mt19937 rng(10);
    Sample s = make_sample(make_layer(DType::f16, 1, 2, 64), 10, rng);
    s.visible = {};
    expect_reference(s);
    s.visible = {{3, 3}};
    expect_reference(s);
    s.blocks.clear();
    expect_reference(s);
}

TEST(Rows, OneVisibleColumnTakesEverything) {
    std::mt19937 rng(11);
    Sample s = make_sample(make_layer(DType::q8_0, 1, 2, 64), 10, rng);
    s.visible = {{4, 5}};
    std::vector<float> rows(20);
    ASSERT_TRUE(attention_rows(s.request(), rows));
    EXPECT_EQ(rows[4], 1.0f);
    EXPECT_EQ(rows[14], 1.0f);
    expect_reference(s);
}

TEST(Rows, AnyRangeOfHeadsGivesTheSameRows) {
    std::mt19937 rng(12);
    const Sample s = make_sample(make_layer(DType::f16, 3, 4, 80), 33, rng);
    std::vector<float> all(12 * 33);
    std::vector<float> lse(12);
    ASSERT_TRUE(attention_rows(s.request(), all, lse));
    for (int32_t begin = 0; begin < 12; ++begin) {
        for (int32_t end = begin + 1; end <= 12; ++end) {
            RowsRequest r = s.request();
            r.head_begin = begin, r.head_end = end;
            std::vector<float> some(static_cast<size_t>(end - begin) * 33);
            std::vector<float> some_lse(static_cast<size_t>(end - begin));
            ASSERT_TRUE(attention_rows(r, some, some_lse));
            for (size_t i = 0; i < some.size(); ++i)
                ASSERT_NEAR(some[i], all[static_cast<size_t>(begin) * 33 + i], 1e-7f);
            for (size_t i = 0; i < some_lse.size(); ++i)
                ASSERT_NEAR(some_lse[i], lse[static_cast<size_t>(begin) + i], 2e-6f);
        }
    }
}
