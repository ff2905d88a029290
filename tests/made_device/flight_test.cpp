// How far what is captured may lie behind what is generated, and who waits for whom.
#include "made_device/proofs_held.h"
#include "made_device/run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

// Each batch on its way holds memory: where proofs do not keep up, what decodes waits for them. Six may wait for their proofs while
// one is taken and one arrives.
TEST_F(OnMadeDevices, NoMoreThanEightTokensAreOnTheirWayToTheirFrames) {
    const Sessions sessions(shape_of(Model::plain));
    SessionOptions cpu = sessions.options("none"), device = sessions.options("TEST0");
    for (SessionOptions* o : {&cpu, &device}) ProofsHeld::prepare(*o);
    const Outcome expected = run(cpu, some_tokens(60), greedy(40));
    auto session = Session::open(device);
    ASSERT_TRUE(session) << session.error().message;
    ProofsHeld held;
    Outcome r;
    size_t most = 0;
    const auto text = [&](int32_t token, const std::string&) {
        if (r.text.size() == 20) held.until_nothing_moves();
        // this one is still to be decoded
        if (r.text.size() >= 20) most = std::max(most, 60 + r.text.size() - r.frames.size());
        r.text.push_back(token);
        held.moves();
        return true;
    };
    const auto frame = [&](Frame&& f) -> Result<void> {
        r.frames.push_back(std::move(f));
        return {};
    };
    const auto result = (*session)->generate(some_tokens(60), greedy(40), frame, text);
    ASSERT_TRUE(result) << result.error().message;
    held.release();
    r.geometry = (*session)->geometry();
    EXPECT_GT(held.n_waited(), 0);
    EXPECT_GE(most, 6u); // decoding goes on while proofs wait ...
    EXPECT_LE(most, 8u); // ... but not for ever
    expect_same(expected, r, 100);
}

// The text of a token comes though nothing that the capture asked the device for has moved.
TEST_F(OnMadeDevices, TextDoesNotWaitForWhatIsCaptured) {
    const Sessions sessions(shape_of(Model::plain));
    const Outcome expected = run(sessions.options("none"), some_tokens(20), greedy(3));
    auto session = Session::open(sessions.options("TEST0"));
    ASSERT_TRUE(session) << session.error().message;
    std::promise<void> first;
    std::optional<std::promise<void>> waiting(std::move(first));
    std::future<void> came = waiting->get_future();
    MadeStreams& streams = MadeDevice::steer().streams;
    streams.hold(true);
    std::future<Outcome> generation = std::async(std::launch::async, [&] {
        return run(**session, some_tokens(20), greedy(3), [&](Session&) {
            if (waiting) waiting->set_value();
            waiting.reset();
        });
    });
    EXPECT_EQ(came.wait_for(std::chrono::seconds(20)), std::future_status::ready);
    streams.hold(false);
    expect_same(expected, generation.get(), 23);
}

// Somebody waits for the logits, and nobody for what is captured: it goes to the host behind them.
TEST_F(OnMadeDevices, WhatIsCapturedGoesToTheHostBehindTheLogits) {
    const Sessions sessions(shape_of(Model::plain));
    const Outcome expected = run(sessions.options("none"), some_tokens(1), greedy(10));
    auto session = Session::open(sessions.options("TEST0"));
    ASSERT_TRUE(session) << session.error().message;
    MadeDevice& device = MadeDevice::steer();
    device.streams.set_order(MadeStreams::Order::engine_last);
    std::string copies; // one at a time is told of
    device.watch_copies([&](bool for_the_engine) { copies += for_the_engine ? 'L' : 'C'; });
    const Outcome r = run(**session, some_tokens(1), greedy(10));
    device.watch_copies(nullptr);
    expect_same(expected, r, 11);
    const auto all = std::count(copies.begin(), copies.end(), 'C');
    ASSERT_GE(all, 11) << copies;
    ASSERT_EQ(all % 11, 0) << copies;
    int64_t n_logits = 0, n_captured = 0;
    for (const char copy : copies) {
        ++(copy == 'L' ? n_logits : n_captured);
        ASSERT_LE(n_captured, n_logits * (all / 11)) << copies;
    }
}

// ... and does not wait for the next token: the way to the host begins while the program does something else.
TEST_F(OnMadeDevices, WhatIsCapturedGoesToTheHostWhileNobodyDecodes) {
    const Sessions sessions(shape_of(Model::plain));
    auto session = Session::open(sessions.options("TEST0"));
    ASSERT_TRUE(session) << session.error().message;
    std::atomic<int> n_captured{0};
    MadeDevice::steer().watch_copies([&](bool for_the_engine) { n_captured += !for_the_engine; });
    std::vector<int> by_then; // at each token
    const Outcome r = run(**session, some_tokens(1), greedy(6), [&](Session&) {
        int before = -1;
        while (before != n_captured) {
            before = n_captured;
            std::this_thread::sleep_for(std::chrono::milliseconds(300));
        }
        by_then.push_back(n_captured);
    });
    MadeDevice::steer().watch_copies(nullptr);
    ASSERT_EQ(r.error, "");
    const int each = n_captured / static_cast<int>(r.frames.size()); // every token's is sent in as many pieces
    ASSERT_GT(each, 0);
    for (size_t i = 0; i < by_then.size(); ++i) EXPECT_EQ(by_then[i], each * static_cast<int>(i + 1)) << i;
}

// The sink ends a generation while later tokens are on their way to their frames.
TEST_F(OnMadeDevices, ASinkThatFailsLeavesASessionThatCanBeUsedOrClosed) {
    const Sessions sessions(shape_of(Model::plain));
    auto cpu = Session::open(sessions.options("none"));
    ASSERT_TRUE(cpu) << cpu.error().message;
    for (const auto order : {MadeStreams::Order::engine_first, MadeStreams::Order::engine_last}) {
        auto session = Session::open(sessions.options("TEST0"));
        ASSERT_TRUE(session) << session.error().message;
        MadeDevice::steer().streams.set_order(order);
        Outcome stopped;
        const auto frame = [&](Frame&& f) -> Result<void> {
            if (f.index == 65) return Error{ErrorKind::io, "the disk is full"};
            stopped.frames.push_back(std::move(f));
            return {};
        };
        const auto result = (*session)->generate(some_tokens(60), greedy(20), frame, {});
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().message, "the disk is full");
        EXPECT_EQ(stopped.frames.size(), 65u);
        const int64_t n_past = (*session)->n_past();
        EXPECT_GT(n_past, 65);
        // As on the CPU from where it stands; frames of the tokens before are those that never came.
        (*cpu)->reset();
        const Outcome before = run(**cpu, some_tokens(60), greedy(static_cast<int32_t>(n_past - 60)));
        const Outcome expected = run(**cpu, some_tokens(9), greedy(4));
        const Outcome r = run(**session, some_tokens(9), greedy(4));
        EXPECT_EQ(r.error, "");
        ASSERT_EQ(r.frames.size(), expected.frames.size());
        for (size_t i = 0; i < r.frames.size(); ++i) {
            EXPECT_EQ(r.frames[i].index, n_past + static_cast<int64_t>(i));
            EXPECT_EQ(r.frames[i].token, expected.frames[i].token);
            EXPECT_TRUE(r.frames[i].q == expected.frames[i].q && r.frames[i].k == expected.frames[i].k) << i;
            EXPECT_EQ(r.frames[i].verdict, verdict_ok) << i;
        }
        // And closed with tokens on their way.
        EXPECT_FALSE((*session)->generate(some_tokens(9), greedy(9), [](Frame&&) -> Result<void> {
            return Error{ErrorKind::io, "the disk is full"};
        }));
    }
}
