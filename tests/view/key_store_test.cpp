// Keys in memory: order, bounds, and contexts that are cut and go on.
#include "view/live_model.h"

#include <attnscope/attention_view.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

using namespace attnscope;
using namespace attnscope::test;

TEST(KeyStore, RefusesFramesOutOfOrderTornOrBeyondTheContext) {
    LiveModel model({}, 1);
    auto keys = std::move(*KeyStore::create(model.geometry(), 2));
    Frame first = model.next(), second = model.next(), third = model.next();
    EXPECT_FALSE(keys->append(second));
    ASSERT_TRUE(keys->append(first));
    Frame torn = second;
    torn.k.pop_back();
    EXPECT_FALSE(keys->append(torn));
    EXPECT_EQ(keys->size(), 1);
    ASSERT_TRUE(keys->append(second));
    const auto full = keys->append(third);
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().message, "the keys of all 2 positions are held already");
    EXPECT_EQ(keys->size(), 2);
}

TEST(KeyStore, AContextThatIsCutGoesOnWithNewKeys) {
    LiveShape shape;
    shape.sliding = true;
    LiveModel model(shape, 2);
    auto keys = std::move(*KeyStore::create(model.geometry(), 1000));
    auto view = std::move(*AttentionView::create(*keys, {}));
    const auto grow = [&](int n) {
        Frame frame;
        for (int i = 0; i < n; ++i) {
            frame = model.next();
            ASSERT_TRUE(keys->append(frame));
        }
        const auto answer = view->answer(frame);
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer.value().values, model.rows(frame));
    };
    grow(300);
    for (const int64_t n : {260, 256, 37, 0}) {
        keys->truncate(n);
        model.truncate(n);
        EXPECT_EQ(keys->size(), n);
        grow(300);
    }
}

// Keys that nobody has read yet wait outside their chunks: cutting them off there, and reading in between, must not show.
TEST(KeyStore, WhenItIsReadAndCutDoesNotChangeWhatIsRead) {
    std::mt19937 rng(7);
    for (int turn = 0; turn < 12; ++turn) {
        LiveModel model(random_live_shape(rng), static_cast<uint32_t>(turn));
        auto keys = std::move(*KeyStore::create(model.geometry(), 700));
        auto view = std::move(*AttentionView::create(*keys, {}));
        Frame frame;
        for (int step = 0; step < 30; ++step) {
            const int64_t n = 1 + static_cast<int64_t>(rng() % 45);
            for (int64_t i = 0; i < n && keys->size() < 700; ++i) {
                frame = model.next();
                ASSERT_TRUE(keys->append(frame));
            }
            if (rng() % 2 == 0 && frame.index + 1 == keys->size()) {
                const auto answer = view->answer(frame);
                ASSERT_TRUE(answer) << answer.error().message;
                EXPECT_EQ(answer.value().values, model.rows(frame)) << "turn " << turn << ", frame " << frame.index;
            }
            if (rng() % 3 == 0) {
                const auto kept = keys->size() - std::min<int64_t>(keys->size(), static_cast<int64_t>(rng() % 50));
                keys->truncate(kept);
                model.truncate(kept);
            }
        }
    }
}

TEST(KeyStore, ACopyGoesItsOwnWay) {
    std::mt19937 rng(11);
    for (const int64_t n : {0, 3, 255, 256, 300, 600}) {
        LiveModel model(random_live_shape(rng), static_cast<uint32_t>(n));
        auto keys = std::move(*KeyStore::create(model.geometry(), 1000));
        Frame last;
        for (int i = 0; i < 600; ++i) {
            last = model.next();
            ASSERT_TRUE(keys->append(last));
        }
        const auto want = model.rows(last);
        auto copied = keys->copy(n);
        ASSERT_TRUE(copied) << copied.error().message;
        EXPECT_EQ((*copied)->size(), n);
        // The original is read, and the copy goes on from where it was cut.
        auto view = std::move(*AttentionView::create(*keys, {}));
        const auto answer = view->answer(last);
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer.value().values, want) << n;
        model.truncate(n);
        auto own = std::move(*AttentionView::create(**copied, {}));
        Frame next;
        for (int i = 0; i < 40; ++i) {
            next = model.next();
            ASSERT_TRUE((*copied)->append(next));
        }
        const auto mine = own->answer(next);
        ASSERT_TRUE(mine) << mine.error().message;
        EXPECT_EQ(mine.value().values, model.rows(next)) << n;
        EXPECT_EQ(view->answer(last).value().values, want) << n;
        // Nor does the copy see what the original becomes.
        keys->truncate(n / 2);
        for (Frame other = last; keys->size() < 700;) {
            other.index = keys->size();
            ASSERT_TRUE(keys->append(other));
        }
        EXPECT_EQ(own->answer(next).value().values, mine.value().values) << n;
    }
}

TEST(KeyStore, HoldsNoMoreThanItsKeysInWholeChunks) {
    LiveModel model({}, 3);
    auto keys = std::move(*KeyStore::create(model.geometry(), 600));
    EXPECT_EQ(keys->bytes(), 0u);
    for (int i = 0; i < 600; ++i) ASSERT_TRUE(keys->append(model.next()));
    EXPECT_EQ(keys->bytes(), model.geometry().k_bytes() * 256 * 3);
    keys->truncate(0);
    model.truncate(0);
    for (int i = 0; i < 600; ++i) ASSERT_TRUE(keys->append(model.next()));
    EXPECT_EQ(keys->bytes(), model.geometry().k_bytes() * 256 * 3);
}

TEST(KeyStore, RefusesGeometriesThatMakeNoSense) {
    const auto refused = [](auto&& spoil) {
        LiveModel model({}, 4);
        Geometry geometry = model.geometry();
        spoil(geometry);
        return !KeyStore::create(geometry, 100).ok();
    };
    EXPECT_FALSE(refused([](Geometry&) {}));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[1].k_layer = 7; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[1].k_layer = 0, g.layers[1].head_dim = 64; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[1].n_head_kv = 3; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[1].mask_group = 1; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[1].sinks = {1.0f}; }));
    LiveModel model({}, 4);
    EXPECT_FALSE(KeyStore::create(model.geometry(), 0));
}
