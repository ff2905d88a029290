// A generation between the engine's thread and a client's, without an engine.
#include "server/generation/generation.h"
#include "view/live_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <optional>
#include <thread>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;
using namespace std::chrono_literals;

namespace {

struct Scene {
    LiveModel model{LiveShape{}, 1};
    std::shared_ptr<SharedKeys> keys = std::make_shared<SharedKeys>();
    std::optional<Generation> generation;

    explicit Scene(GenerationRequest request, int32_t engine_threads = 0, size_t queue_bytes = size_t(1) << 20) {
        keys->store = std::move(*KeyStore::create(model.geometry(), 64));
        GenerationLimits limits;
        limits.engine_threads = engine_threads;
        limits.queue_bytes = queue_bytes;
        limits.stall = 2s;
        generation.emplace(std::move(request), limits);
        EXPECT_TRUE(generation->begin(keys, 3, 0));
    }
    Frame next_frame() {
        Frame frame = model.next(false);
        const base::Lock lock(keys->mutex);
        EXPECT_TRUE(keys->store->append(frame));
        return frame;
    }
    Frame choose() { // a frame and the token that was chosen from it
        Frame frame = next_frame();
        generation->put_row({frame, {}});
        generation->put_token(7, "a", frame.index, {});
        return frame;
    }
    AttentionAnswer plain(const Frame& frame) const {
        return *(*AttentionView::create(*keys->store, *generation->request.attention, {.n_prompt = 3}))->answer(frame);
    }
};

GenerationRequest asking(AttentionRequest attention) {
    GenerationRequest request;
    request.attention = std::move(attention);
    return request;
}

} // namespace

TEST(Generation, TheEnginesThreadsComputeForAClientThatKeepsUp) {
    Scene scene(asking({.reduce = Reduce::mean}), 2);
    for (int i = 0; i < 8; ++i) {
        const bool behind = i == 5; // the event before it was not taken yet
        const Frame frame = scene.next_frame();
        const AttentionAnswer want = scene.plain(frame);
        if (behind) scene.generation->put_prompt_row({frame, {}});
        scene.generation->put_row({frame, {}});
        EXPECT_TRUE(behind || !scene.generation->next(1ms)); // there is no token yet
        scene.generation->put_token(7, "a", frame.index, {});
        auto event = scene.generation->next(1s);
        if (behind) event = scene.generation->next(1s);
        ASSERT_TRUE(event && event->frame());
        EXPECT_EQ(event->kind, GenerationEvent::Kind::token);
        EXPECT_EQ(event->answer.has_value(), !behind);
        // whoever computed now would wait for it for ever
        std::optional<base::Lock> lock(std::in_place, scene.keys->mutex);
        if (behind) lock.reset();
        const auto answer = scene.generation->answer(*event);
        ASSERT_TRUE(answer && *answer);
        EXPECT_EQ((*answer)->index, frame.index);
        EXPECT_EQ((*answer)->values, want.values);
    }
}

TEST(Generation, AClientThatLeavesWhileTheEngineComputesTakesNothingAway) {
    for (int i = 0; i < 20; ++i) {
        Scene scene(asking({.reduce = Reduce::none}), 2);
        const Frame frame = scene.next_frame();
        std::thread client([&] { scene.generation->abandon(); });
        scene.generation->put_row({frame, {}});
        scene.generation->put_token(7, "a", frame.index, {});
        client.join();
        EXPECT_TRUE(scene.generation->cancelled());
    }
}

TEST(Generation, AFrameWhoseTokenIsNeverChosenIsNotAccumulated) {
    Scene scene(asking({.reduce = Reduce::mean, .accumulate = {Accumulate::total}}));
    const Frame chosen = scene.next_frame();
    const double want = [&] {
        double sum = 0;
        for (const float x : scene.plain(chosen).values) sum += static_cast<double>(x);
        return sum;
    }();
    scene.generation->put_token(7, "a", chosen.index, {});
    scene.generation->put_row({chosen, {}});
    auto event = scene.generation->next(1s);
    ASSERT_TRUE(event);
    EXPECT_TRUE(scene.generation->answer(*event));
    scene.generation->put_row({scene.next_frame(), {}}); // the model stops here
    EXPECT_FALSE(scene.generation->next(20ms));
    scene.generation->finish({});
    event = scene.generation->next(1s);
    ASSERT_TRUE(event);
    EXPECT_EQ(event->kind, GenerationEvent::Kind::done);
    const auto scores = scene.generation->scores();
    ASSERT_TRUE(scores);
    double total = 0;
    for (const double x : scores->total()) total += x;
    EXPECT_EQ(scores->n_rows(), 1);
    EXPECT_NEAR(total, want, 1e-6);
}

TEST(Generation, FramesAreComputedInTheirOrderWhoeverComputes) {
    Scene scene(asking({.reduce = Reduce::mean, .accumulate = {Accumulate::last}}), 2);
    const Frame first = scene.next_frame();
    scene.generation->put_prompt_row({first, {}}); // left to the client
    ASSERT_TRUE(scene.generation->next(1s));       // which has it in hand, and has not computed it
    auto event = scene.generation->next(1ms);
    EXPECT_FALSE(event);
    const Frame second = scene.choose();
    event = scene.generation->next(1s);
    ASSERT_TRUE(event);
    EXPECT_FALSE(event->answer.has_value());
    EXPECT_TRUE(scene.generation->answer(*event));
    const Frame third = scene.choose(); // the client is up to date again
    event = scene.generation->next(1s);
    ASSERT_TRUE(event);
    EXPECT_TRUE(event->answer.has_value());
}

TEST(Generation, WhatIsOvertakenIsNotSentThoughTheEngineComputedIt) {
    for (const bool accumulating : {false, true}) {
        AttentionRequest attention{.reduce = Reduce::mean};
        if (accumulating) attention.accumulate = {Accumulate::total};
        GenerationRequest request = asking(attention);
        request.flow = Flow::latest;
        Scene scene(std::move(request), 2);
        scene.choose();
        scene.choose();
        auto event = scene.generation->next(1s);
        ASSERT_TRUE(event);
        EXPECT_TRUE(event->overtaken);
        auto answer = scene.generation->answer(*event);
        ASSERT_TRUE(answer);
        EXPECT_FALSE(answer->has_value());
        event = scene.generation->next(1s);
        ASSERT_TRUE(event);
        answer = scene.generation->answer(*event);
        EXPECT_TRUE(answer && answer->has_value());
    }
}

TEST(Generation, WhatIsGivenUpTakesItsMemoryAlong) {
    Scene scene(asking({.reduce = Reduce::none}), 2, 1);
    scene.choose();
    scene.generation->cut_off();
    ASSERT_TRUE(scene.generation->next(1s));
    const auto start = std::chrono::steady_clock::now();
    scene.choose(); // there is room: nothing waits
    EXPECT_LT(std::chrono::steady_clock::now() - start, 1s);
}
