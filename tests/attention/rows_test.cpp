// Rows against a float64 reference.
#include "attention/reference.h"
#include "attention/simd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr DType key_types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,  DType::q4_0,
                               DType::q4_1, DType::q5_0, DType::q5_1, DType::iq4_nl};

LayerInfo make_layer(DType k_type, int32_t n_head_kv, int32_t group, int32_t head_dim) {
    LayerInfo l;
    l.n_head = n_head_kv * group;
    l.n_head_kv = n_head_kv;
    l.head_dim = head_dim;
    l.k_type = k_type;
    l.q_type = partner_of(k_type);
    l.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    return l;
}

std::vector<const RowKernels*> all_kernels() {
    std::vector<const RowKernels*> all{&scalar_kernels()};
    if (avx2_kernels()) all.push_back(avx2_kernels());
    return all;
}

// Every kernel set must give the reference's rows within 1e-6 and its denominators within float32 rounding;
// what is masked must be exactly 0 whatever the memory held before.
void expect_reference(const Sample& s) {
    const ReferenceRows want = reference_rows(s);
    for (const RowKernels* kernels : all_kernels()) {
        std::vector<float> rows(want.rows.size(), 7.0f);
        std::vector<float> lse(want.lse.size(), 7.0f);
        const auto ok = attention_rows_with(*kernels, s.request(), rows, lse);
        ASSERT_TRUE(ok) << ok.error().message;
        std::vector<bool> seen(s.keys.size());
        for (const Range& r : s.visible) {
            for (int64_t c = r.begin; c < r.end; ++c)
                seen[static_cast<size_t>(c)] = true;
        }
        for (size_t h = 0; h < want.lse.size(); ++h) {
            double sum = 0;
            double want_sum = 0;
            for (size_t c = 0; c < s.keys.size(); ++c) {
                const size_t i = h * s.keys.size() + c;
                ASSERT_NEAR(static_cast<double>(rows[i]), want.rows[i], 1e-6)
                    << kernels->name << " head " << h << " column " << c;
                if (!seen[c]) {
                    ASSERT_EQ(rows[i], 0.0f);
                }
                sum += static_cast<double>(rows[i]);
                want_sum += want.rows[i];
            }
            EXPECT_NEAR(sum, want_sum, 1e-6);
            if (std::isinf(want.lse[h])) {
                EXPECT_EQ(static_cast<double>(lse[h]), want.lse[h]);
            } else {
                EXPECT_NEAR(static_cast<double>(lse[h]), want.lse[h], 4e-6 + 2e-7 * std::abs(want.lse[h]));
            }
        }
    }
}

Ranges random_ranges(int64_t n, std::mt19937& rng) {
    Ranges ranges;
    int64_t at = static_cast<int64_t>(rng() % 4);
    while (at < n) {
        const int64_t end = std::min(n, at + 1 + static_cast<int64_t>(rng() % 50));
        ranges.push_back({at, end});
        at = end + 1 + static_cast<int64_t>(rng() % 9);
    }
    return ranges;
}

} // namespace

TEST(Rows, EqualTheReferenceForRandomShapesOfEveryType) {
    std::mt19937 rng(1);
    for (const DType type : key_types) {
        for (int round = 0; round < 12; ++round) {
            const int32_t block = dtype_block(type);
            const int32_t head_dim =
                block > 1 ? 32 * static_cast<int32_t>(1 + rng() % 8) : static_cast<int32_t>(32 + rng() % 225);
            const auto n_head_kv = static_cast<int32_t>(1 + rng() % 3);
            const auto group =
                static_cast<int32_t>(1 + (round < 8 ? static_cast<unsigned>(round) : rng() % 20));
            Sample s = make_sample(make_layer(type, n_head_kv, group, head_dim),
                                   static_cast<int64_t>(1 + rng() % 150), rng);
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
        for (int32_t& p : s.positions)
            p = static_cast<int32_t>(rng() % 200);
        s.position = 120;
        s.visible = random_ranges(90, rng);
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
    for (int32_t h = 0; h < l.n_head; ++h)
        l.sinks.push_back(static_cast<float>(h) - 6.0f);
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
