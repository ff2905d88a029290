#include "attention/part_rows.h"
#include "attention/reference.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

using namespace attnscope;
using namespace attnscope::test;

TEST(PartRows, KeysOfPartsAreEveryKeyOnce) {
    std::mt19937 rng(4);
    for (int trial = 0; trial < 200; ++trial) {
        std::vector<Range> visible;
        int64_t at = 0, n = 0;
        for (int i = std::uniform_int_distribution<>(0, 5)(rng); i > 0; --i) {
            at += std::uniform_int_distribution<>(0, 9)(rng);
            const int64_t length = std::uniform_int_distribution<>(1, 40)(rng);
            visible.push_back({at, at + length});
            at += length, n += length;
        }
        const int64_t n_parts = std::uniform_int_distribution<>(1, 7)(rng);
        std::vector<int64_t> expected, got;
        for (const Range& r : visible)
            for (int64_t c = r.begin; c < r.end; ++c) expected.push_back(c);
        for (int64_t p = 0; p < n_parts; ++p) {
            std::vector<Range> part;
            const int64_t begin = n * p / n_parts;
            attention::keys_of_part(visible, begin, n * (p + 1) / n_parts - begin, part);
            for (const Range& r : part)
                for (int64_t c = r.begin; c < r.end; ++c) got.push_back(c);
        }
        EXPECT_EQ(got, expected);
    }
}

// However the keys are shared out, whatever is seen, every set of kernels gives the weights of the whole row in float64.
TEST(PartRows, AreTheWholeRowsOnceTheyAreBroughtTogether) {
    std::mt19937 rng(5);
    const auto pick = [&](int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(rng); };
    constexpr int32_t head_dims[] = {16, 40, 64, 80, 96, 128, 256};
    constexpr DType types[] = {DType::f16, DType::bf16, DType::f32, DType::q8_0};
    for (int trial = 0; trial < 80; ++trial) {
        const DType type = types[trial % 4];
        LayerInfo layer = make_layer(type, pick(1, 3), pick(1, 9), type == DType::q8_0 ? 64 : head_dims[pick(0, 6)]);
        if (trial % 3 == 1) layer.softcap = 5;
        if (trial % 5 < 2) {
            for (int32_t h = 0; h < layer.n_head; ++h) layer.sinks.push_back(0.3f * static_cast<float>(h));
        }
        const int64_t n = pick(1, 300);
        Sample sample = make_sample(layer, n, rng);
        sample.visible = trial % 7 == 6 ? Ranges{} : trial % 2 ? random_ranges(n, rng) : Ranges{{0, n}};
        const ReferenceRows expected = reference_rows(sample);
        std::vector<uint8_t> k;
        for (const std::vector<uint8_t>& key : sample.keys) k.insert(k.end(), key.begin(), key.end());

        const auto plan = attention::plan_layer(layer, false);
        ASSERT_TRUE(plan);
        const int64_t n_parts = pick(1, 5), n_visible = ranges_count(sample.visible);
        for (const attention::RowKernels* kernels : all_kernels()) {
            std::vector<float> numerators(expected.rows.size(), -1.0f);
            std::vector<std::vector<attention::PartShare>> parts(
                static_cast<size_t>(n_parts), std::vector<attention::PartShare>(static_cast<size_t>(layer.n_head)));
            std::vector<std::vector<Range>> keys(parts.size());
            attention::FloatQueries memory;
            for (size_t p = 0; p < parts.size(); ++p) {
                const int64_t begin = n_visible * static_cast<int64_t>(p) / n_parts;
                attention::keys_of_part(sample.visible, begin,
                                        n_visible * static_cast<int64_t>(p + 1) / n_parts - begin, keys[p]);
                attention::PartRequest r;
                r.layer = &layer, r.plan = &*plan, r.q = sample.q.data(), r.k = k.data(),
                r.k_stride = sample.keys[0].size();
                r.keys = keys[p], r.numerators = numerators.data(), r.stride = static_cast<size_t>(n);
                attention::part_rows(*kernels, r, parts[p], memory);
            }
            std::vector<float> got(expected.rows.size(), 0.0f);
            size_t n_written = 0;
            for (size_t h = 0; h < static_cast<size_t>(layer.n_head); ++h) {
                attention::PartSum sum(layer.sinks.empty() ? nullptr : &layer.sinks[h]);
                for (const auto& p : parts) sum.add(p[h]);
                for (size_t p = 0; p < parts.size(); ++p) {
                    for (const Range& r : keys[p]) {
                        for (int64_t c = r.begin; c < r.end; ++c, ++n_written) {
                            const size_t i = h * static_cast<size_t>(n) + static_cast<size_t>(c);
                            got[i] = numerators[i] * sum.factor(parts[p][h].max);
                            numerators[i] = -1.0f;
                        }
                    }
                }
            }
            EXPECT_EQ(n_written, static_cast<size_t>(layer.n_head * n_visible));
            for (size_t i = 0; i < got.size(); ++i) {
                ASSERT_NEAR(static_cast<double>(got[i]), expected.rows[i], 1e-6)
                    << kernels->name << ", trial " << trial << " weight " << i;
                ASSERT_EQ(numerators[i], -1.0f) << "written where nothing is seen: " << i;
            }
        }
    }
}

TEST(PartRows, NothingSeenWeighsNothing) {
    EXPECT_EQ(attention::PartSum().factor(-std::numeric_limits<float>::infinity()), 0.0f);
    attention::PartSum only_a_sink = [] {
        const float sink = 2;
        return attention::PartSum(&sink);
    }();
    EXPECT_EQ(only_a_sink.factor(-std::numeric_limits<float>::infinity()), 0.0f);
    EXPECT_FLOAT_EQ(only_a_sink.factor(2.0f), 1.0f);
}
