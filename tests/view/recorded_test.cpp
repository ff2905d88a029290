// What a page asks of a recording, against the recording's own rows, on a model that has everything: layers without attention, shared
// keys, windows, soft caps, sinks, ALiBi, several types of keys, heads that differ in number, tokens without queries.
#include "recording/synthetic.h"
#include "support/temp_dir.h"

#include "view/recorded/head_metrics.h"
#include "view/recorded/picture.h"
#include "view/recorded/questions.h"
#include "view/recorded/tensors.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>

using namespace attnscope;
using namespace attnscope::view;

namespace {

class Recorded : public ::testing::Test {
protected:
    void SetUp() override {
        test::write_recording(path_, test::mixed_geometry(), n_);
        auto opened = Recording::open(path_);
        ASSERT_TRUE(opened) << opened.error().message;
        recording_ = std::move(*opened);
        auto loaded = RecordedTensors::load(*recording_, size_t(1) << 30);
        ASSERT_TRUE(loaded) << loaded.error().message;
        tensors_ = *loaded;
    }
    // Rows that exist of one token, as the recording gives them.
    std::vector<std::vector<float>> rows(int64_t i, const Selection& s) {
        std::vector<std::vector<float>> out;
        const Geometry& geometry = recording_->info().geometry;
        for (int32_t l = 0; l < geometry.n_layer(); ++l) {
            if (!geometry.layers[size_t(l)].captured() || (s.layer >= 0 && s.layer != l)) continue;
            for (int32_t h = 0; h < geometry.layers[size_t(l)].n_head; ++h) {
                if (s.head >= 0 && s.head != h) continue;
                auto r = recording_->rows(i, {std::vector<int32_t>{l}, std::vector<int32_t>{h}});
                EXPECT_TRUE(r);
                out.push_back(r->weights);
            }
        }
        return out;
    }
    double weight(int64_t i, int64_t j, const Selection& s) {
        double sum = 0, most = 0;
        const auto all = rows(i, s);
        for (const auto& row : all) {
            sum += double(row[size_t(j)]);
            most = std::max(most, double(row[size_t(j)]));
        }
        return s.max ? most : sum / double(all.size());
    }

    // By how much a weight of a column may differ from the row's, as a part of it. The weight is exp(s - L), s a score of d products, L
    // the logarithm of the row's denominator. A row adds the products of s up in the engine's order in float32, a column in float64,
    // and L comes from scores that are added in a third order. With u = 2^-24 such a score is off by at most e = (d + 2) u A,
    // A = scale * sum |q k| (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 3.1 and 3.5), and L by no more than its
    // scores: exp(3 e). Here d = 32 and A < 4: 2.5e-5. Where rows are computed as wholes (quantised keys, ALiBi) s is the same, but it
    // and L are rounded to float32: 2 u |L| more, with 4 u for the exponentials and divisions themselves.
    double column_bound(const RecordedTensors& tensors, int64_t i, const Selection& s) {
        constexpr double u = 5.97e-8;
        double size = 0;
        for (const int32_t l : tensors.layers_of(s)) {
            const Range heads = tensors.heads_of(s, l);
            for (int64_t h = heads.begin; h < heads.end; ++h)
                size = std::max(size, std::abs((*tensors.denominators(l, int32_t(h)))[size_t(i)]));
        }
        return 3 * 34 * u * 4 + 2 * u * size + 4 * u;
    }
    void AColumnIsThatOfTheRowsOf(const RecordedTensors& tensors) {
        double worst = 0;
        for (const Selection& s : selections_) {
            for (const int64_t token : {int64_t(0), int64_t(13), n_ - 1}) {
                auto c = column(tensors, token, s);
                ASSERT_TRUE(c) << c.error().message;
                ASSERT_EQ(int64_t(c->size()), n_ - token);
                for (int64_t i = token; i < n_; ++i) {
                    if (!tensors.has_rows(i)) { // not 0: nobody knows
                        EXPECT_TRUE(std::isnan((*c)[size_t(i - token)])) << "token " << i;
                        continue;
                    }
                    const double expected = weight(i, token, s);
                    const double apart = std::abs(double((*c)[size_t(i - token)]) - expected);
                    EXPECT_LE(apart, column_bound(tensors, i, s) * expected + 1e-37) << "token " << i;
                    worst = std::max(worst, expected > 1e-30 ? apart / expected : 0.0);
                }
            }
        }
        RecordProperty("worst_relative_difference", std::to_string(worst));
    }

    const int64_t n_ = 70;
    test::TempDir folder_;
    std::string path_ = folder_.file("r.attn");
    std::unique_ptr<Recording> recording_;
    std::shared_ptr<const RecordedTensors> tensors_;
    const std::vector<Selection> selections_{{},          {-1, -1, true}, {1, -1, false}, {5, 5, false}, {-1, 5, false},
                                             {4, 2, true}};
};

TEST_F(Recorded, RowsAreTheRecordingsBitForBit) {
    for (int64_t i = 0; i < n_; ++i) {
        for (const Selection& s : selections_) {
            ASSERT_TRUE(tensors_->check(s));
            if (!tensors_->has_rows(i)) continue;
            size_t at = 0;
            const auto expected = rows(i, s);
            for (const int32_t l : tensors_->layers_of(s)) {
                const Range heads = tensors_->heads_of(s, l);
                std::vector<float> out(size_t((heads.end - heads.begin) * tensors_->n_columns(i)));
                ASSERT_TRUE(tensors_->rows(i, l, heads, out));
                for (int64_t h = heads.begin; h < heads.end; ++h, ++at) {
                    const std::vector<float> row(out.begin() + (h - heads.begin) * tensors_->n_columns(i),
                                                 out.begin() + (h - heads.begin + 1) * tensors_->n_columns(i));
                    ASSERT_EQ(row, expected[at]) << "token " << i << " layer " << l << " head " << h;
                }
            }
            ASSERT_EQ(at, expected.size());
        }
    }
}

TEST_F(Recorded, AColumnIsThatOfTheRows) {
    AColumnIsThatOfTheRowsOf(*tensors_);
    EXPECT_FALSE(column(*tensors_, n_, {}));
    EXPECT_FALSE(column(*tensors_, -1, {}));
}

TEST_F(Recorded, TilesHoldTheWeights) {
    for (const Selection& s : selections_) {
        auto picture = Picture::make(tensors_, s);
        ASSERT_TRUE(picture);
        ASSERT_EQ((*picture)->n_levels(), 1);
        auto tile = (*picture)->tile(0, 0, 0);
        ASSERT_TRUE(tile);
        for (int64_t i = 20; i < n_; i += 7) {
            for (int64_t j = 0; j <= i; j += 5) {
                const double expected = weight(i, j, s);
                EXPECT_NEAR(double(ggml_fp16_to_fp32((*tile)[size_t(2 * (i * tile_size + j))])), expected,
                            1e-3 * expected + 1e-6);
                EXPECT_NEAR(double(ggml_fp16_to_fp32((*tile)[size_t(2 * (i * tile_size + j) + 1)])), expected,
                            1e-3 * expected + 1e-6);
            }
        }
        EXPECT_FALSE((*picture)->tile(1, 0, 0));
        EXPECT_FALSE((*picture)->tile(0, 1, 0));
        EXPECT_FALSE((*picture)->tile(-1, 0, 0));
    }
}

TEST_F(Recorded, MetricsAreThoseOfTheRowsInDoublePrecision) {
    auto m = head_metrics(*tensors_);
    ASSERT_TRUE(m) << m.error().message;
    for (int32_t l = 0; l < m->n_layer; ++l) {
        for (int32_t h = 0; h < m->n_head; ++h) {
            const size_t at = size_t(l * m->n_head + h);
            const Selection s{l, h, false};
            if (!tensors_->check(s)) {
                for (const auto& values : m->values) EXPECT_TRUE(std::isnan(values[at]));
                continue;
            }
            double first = 0, entropy = 0, distance = 0, variance = 0, retrieval = 0;
            int64_t n = 0, n_retrieval = 0;
            for (int64_t i = 1; i < n_; ++i) {
                if (!tensors_->has_rows(i)) continue;
                const std::vector<float> row = rows(i, s).front();
                double d = 0, d2 = 0, copied = 0;
                bool copies = false;
                for (int64_t j = 0; j <= i; ++j) {
                    const auto a = double(row[size_t(j)]);
                    if (a > 0) entropy -= a * std::log(a);
                    d += a * double(i - j);
                    d2 += a * double(i - j) * double(i - j);
                    if (i + 1 < n_ && tensors_->frame(j).token == tensors_->frame(i + 1).token) {
                        copies = true;
                        copied += a;
                    }
                }
                first += double(row[0]);
                distance += d;
                variance += d2 - d * d;
                retrieval += copied;
                n_retrieval += copies;
                ++n;
            }
            // Rows of blocks add a score's products up in another order than these, so that a weight may differ by the part of it that
            // column_bound derives (2e-5), a sum of weights by as much of itself. Where many are averaged little of that is left, for their
            // signs differ: 1.1e-9 of a share and 2.8e-7 of a distance were seen, and four to ten times that is allowed.
            EXPECT_NEAR(m->values[m_first][at], first / double(n), 1e-8);
            EXPECT_NEAR(m->values[m_entropy][at], entropy / double(n), 2e-6);
            EXPECT_NEAR(m->values[m_distance][at], distance / double(n), 1e-6);
            EXPECT_NEAR(m->values[m_distance_variance][at], variance / double(n), 1e-5);
            EXPECT_NEAR(m->values[m_retrieval][at], retrieval / double(n_retrieval), 1e-8);
        }
    }
}

TEST_F(Recorded, AFlowIsTheMeanOfTheRowsThatChose) {
    auto f = flow(*tensors_, {}, 40, 44);
    ASSERT_TRUE(f);
    for (int64_t j = 0; j < 44; j += 3) {
        double expected = 0;
        for (int64_t i = 39; i < 43; ++i) expected += j <= i ? weight(i, j, {}) / 4 : 0;
        EXPECT_NEAR(double((*f)[size_t(j)]), expected, 1e-6);
    }
    EXPECT_FALSE(flow(*tensors_, {}, 0, 4));
    EXPECT_FALSE(flow(*tensors_, {}, 4, 4));
    EXPECT_FALSE(flow(*tensors_, {}, 4, n_ + 1));
}

TEST_F(Recorded, ARolloutLosesNothing) {
    const auto none = rollout(*tensors_, 60, 64); // queries of some tokens were not kept
    ASSERT_FALSE(none);
    EXPECT_NE(none.error().message.find("was recorded without its queries"), std::string::npos) << none.error().message;
    const std::string path = folder_.file("all.attn");
    test::write_recording(path, test::mixed_geometry(), n_, {}, true);
    auto recording = Recording::open(path);
    ASSERT_TRUE(recording);
    auto tensors = RecordedTensors::load(**recording, size_t(1) << 30);
    ASSERT_TRUE(tensors);
    auto v = rollout(**tensors, 60, 64);
    ASSERT_TRUE(v) << v.error().message;
    double sum = 0;
    for (const float x : *v) sum += double(x);
    EXPECT_LT(sum, 1 + 1e-5); // a learned sink takes some
    EXPECT_GT(sum, 0.5);
}

TEST_F(Recorded, ARecordingHasNoDistanceFromItself) {
    auto d = difference(*tensors_, *tensors_);
    ASSERT_TRUE(d);
    EXPECT_EQ(d->n_tokens, n_);
    for (const double x : d->distance) EXPECT_TRUE(std::isnan(x) || x == 0);
}

// A pass over a recording that grows would never end if it began again with every token.
TEST_F(Recorded, WhatWasComputedBeforeItGrewStays) {
    const std::string path = folder_.file("before.attn");
    test::write_recording(path, test::mixed_geometry(), 50);
    auto recording = Recording::open(path);
    ASSERT_TRUE(recording);
    auto before = RecordedTensors::load(**recording, size_t(1) << 30);
    ASSERT_TRUE(before);
    const Selection s{2, 2, false};
    ASSERT_TRUE((*before)->prepare_denominators(s, {}));
    auto grown = RecordedTensors::load(*recording_, size_t(1) << 30, {}, {nullptr, *before, nullptr});
    ASSERT_TRUE(grown);
    EXPECT_FALSE((*grown)->has_denominators(s));
    for (const int32_t head : {2, 3}) { // of one there was a beginning
        const auto got = (*grown)->denominators(2, head), expected = tensors_->denominators(2, head);
        ASSERT_TRUE(got && expected);
        ASSERT_EQ(got->size(), size_t(n_));
        for (size_t i = 0; i < got->size(); ++i) {
            ASSERT_EQ(std::isnan((*got)[i]), std::isnan((*expected)[i])) << i;
            if (!std::isnan((*got)[i])) {
                EXPECT_NEAR((*got)[i], (*expected)[i], 1e-6) << i;
            }
        }
    }
    for (int64_t i = 0; i < n_; ++i) EXPECT_EQ((*grown)->has_rows(i), tensors_->has_rows(i));
}

// Every row passes by when metrics are computed: columns of single heads need no pass of their own then.
TEST_F(Recorded, MetricsLeaveDenominatorsBehind) {
    ASSERT_FALSE(tensors_->has_denominators({2, 1, false}));
    ASSERT_TRUE(head_metrics(*tensors_));
    EXPECT_TRUE(tensors_->has_denominators({2, 1, false}));
    AColumnIsThatOfTheRowsOf(*tensors_);
}

TEST_F(Recorded, WhatStopsAPassStopsIt) {
    auto m = head_metrics(*tensors_, [](double) { return false; });
    ASSERT_FALSE(m);
    EXPECT_EQ(m.error().kind, ErrorKind::io);
    EXPECT_FALSE(RecordedTensors::load(*recording_, 1000)); // more than may be held
}

TEST_F(Recorded, ALayerWithoutAttentionIsToldByItsReason) {
    const Result<void> r = tensors_->check({0, -1, false});
    ASSERT_FALSE(r);
    EXPECT_NE(r.error().message.find("recurrent"), std::string::npos);
    EXPECT_FALSE(tensors_->check({99, -1, false}));
    EXPECT_FALSE(tensors_->check({1, 5, false})); // only layer 5 has six heads
}

} // namespace
