// A recording and the memory of a session give the same answers.
#include "view/recorded_model.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr Reduce all_reductions[] = {Reduce::none,           Reduce::mean,    Reduce::max,
                                     Reduce::per_layer,      Reduce::top_k,   Reduce::spans,
                                     Reduce::lookback_ratio, Reduce::entropy, Reduce::first_share};

AttentionRequest asking(Reduce reduce) {
    AttentionRequest request;
    request.reduce = reduce;
    request.spans = {{0, 3}, {2, 30}};
    request.top_k = 5;
    return request;
}

void expect_same(const AttentionAnswer& a, const AttentionAnswer& b) {
    EXPECT_EQ(a.index, b.index);
    EXPECT_EQ(a.n_columns, b.n_columns);
    EXPECT_EQ(a.first_column, b.first_column);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_EQ(a.values, b.values); // bit for bit: no value is NaN here
    EXPECT_EQ(a.columns, b.columns);
}

} // namespace

TEST(Source, ARecordingAnswersEveryRequestAsTheSessionsMemoryDoes) {
    std::mt19937 rng(31);
    for (int i = 0; i < 8; ++i) {
        const RecordedModel m(random_live_shape(rng), i == 0 ? 600 : 3 + int64_t(rng() % 300), rng());
        for (const Reduce reduce : all_reductions) {
            AttentionRequest request = asking(reduce);
            if (rng() % 2) request.window = 1 + int64_t(rng() % 40);
            if (rng() % 2) request.rows = {{2, 0}, {0}};
            auto live = AttentionView::create(*m.keys, request, {.n_prompt = 2});
            auto recorded = AttentionView::create(*m.source, request, {.n_prompt = 2, .n_threads = 2});
            ASSERT_TRUE(live && recorded);
            for (const size_t index : {size_t(0), m.frames.size() / 2, m.frames.size() - 1}) {
                const auto a = (*live)->answer(m.frames[index]);
                const auto b = (*recorded)->answer(static_cast<int64_t>(index));
                ASSERT_TRUE(a && b) << reduce_name(reduce) << ": " << (b ? "" : b.error().message);
                SCOPED_TRACE(reduce_name(reduce));
                expect_same(*a, *b);
            }
        }
    }
}

TEST(Source, RowsOfARecordingAreThoseOfRecordingRows) {
    const RecordedModel m({.n_layer = 4, .uneven = true, .sliding = true, .extras = true}, 300, 7);
    auto view = AttentionView::create(*m.source, {.rows = {.heads = {3, 0}}});
    ASSERT_TRUE(view);
    for (const int64_t index : {int64_t(0), int64_t(150), int64_t(299)}) {
        const auto answer = (*view)->answer(index);
        const auto rows = m.recording->rows(index, {.heads = {3, 0}});
        ASSERT_TRUE(answer && rows);
        EXPECT_EQ(answer.value().values, rows.value().weights);
        EXPECT_EQ(answer.value().shape, (std::vector<int64_t>{4, 2, index + 1}));
    }
}

// each() computes means of many tokens together: the same answers, but for the last digits of a mean.
TEST(Source, ManyTokensAreAnsweredAsOneAfterTheOther) {
    std::mt19937 rng(32);
    for (int i = 0; i < 6; ++i) {
        const RecordedModel m(random_live_shape(rng), 120 + int64_t(rng() % 200), rng(), i % 2 ? 7 : 0);
        for (const Reduce reduce : all_reductions) {
            AttentionRequest request = asking(reduce);
            request.every = 1 + int32_t(rng() % 3);
            request.accumulate = {Accumulate::total, Accumulate::last};
            auto alone = AttentionView::create(*m.source, request);
            auto together = AttentionView::create(*m.source, request, {.n_threads = 2});
            ASSERT_TRUE(alone && together);
            const auto n = static_cast<int64_t>(m.frames.size());
            std::vector<AttentionAnswer> want, got;
            for (int64_t index = 5; index < n; ++index) {
                auto frame = m.source->frame(index);
                ASSERT_TRUE(frame);
                if (frame->q.empty()) continue;
                auto answer = (*alone)->next(*frame);
                ASSERT_TRUE(answer) << answer.error().message;
                if (*answer) want.push_back(std::move(**answer));
            }
            const auto done = (*together)->each({5, n}, [&](AttentionAnswer&& answer) {
                got.push_back(std::move(answer));
                return Result<void>();
            });
            ASSERT_TRUE(done) << done.error().message;
            ASSERT_EQ(want.size(), got.size()) << reduce_name(reduce);
            for (size_t a = 0; a < want.size(); ++a) {
                EXPECT_EQ(want[a].index, got[a].index);
                EXPECT_EQ(want[a].shape, got[a].shape);
                ASSERT_EQ(want[a].values.size(), got[a].values.size());
                for (size_t j = 0; j < want[a].values.size(); ++j)
                    ASSERT_NEAR(want[a].values[j], got[a].values[j], 1e-6f)
                        << reduce_name(reduce) << ", frame " << want[a].index;
            }
            EXPECT_EQ((*alone)->scores().n_rows(), (*together)->scores().n_rows());
            for (int64_t j = 0; j < n; ++j)
                ASSERT_NEAR((*alone)->scores().total()[size_t(j)], (*together)->scores().total()[size_t(j)], 1e-4);
        }
    }
}

TEST(Source, WhatItCannotAnswerItRefusesInWords) {
    const RecordedModel m({}, 20, 5, 5);
    auto view = AttentionView::create(*m.source, {});
    ASSERT_TRUE(view);
    EXPECT_EQ((*view)->answer(int64_t(20)).error().kind, ErrorKind::not_found);
    EXPECT_EQ((*view)->answer(int64_t(-1)).error().kind, ErrorKind::not_found);
    EXPECT_EQ((*view)->answer(int64_t(4)).error().kind, ErrorKind::not_found); // without its queries
    auto means = AttentionView::create(*m.source, {.reduce = Reduce::mean});
    ASSERT_TRUE(means);
    const auto ignore = [](AttentionAnswer&&) { return Result<void>(); };
    EXPECT_EQ((*means)->each({-3, 0}, ignore).error().kind, ErrorKind::not_found);
    EXPECT_EQ((*means)->each({15, 21}, ignore).error().kind, ErrorKind::not_found);
    EXPECT_TRUE((*means)->each({0, 0}, ignore));
    auto live = AttentionView::create(*m.keys, {});
    ASSERT_TRUE(live);
    EXPECT_EQ((*live)->answer(int64_t(3)).error().kind, ErrorKind::not_found); // a KeyStore has no queries
    EXPECT_EQ((*live)->each({0, 3}, [](AttentionAnswer&&) { return Result<void>(); }).error().kind,
              ErrorKind::not_found);
    const auto stop = (*view)->each({0, 20}, [](AttentionAnswer&&) {
        return Result<void>(Error{ErrorKind::io, "enough"});
    });
    EXPECT_EQ(stop.error().message, "enough");
}
