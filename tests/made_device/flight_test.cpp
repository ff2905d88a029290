// How far what is captured may lie behind what is generated, and who waits for whom.
#include "made_device/proofs_held.h"
#include "made_device/run.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <optional>

using namespace attnscope;
using namespace attnscope::test;

// Each batch on its way holds memory: where proofs do not keep up, what decodes waits for them. Six may wait for their proofs while
// one is taken and one arrives.
TEST_F(OnMadeDevices, NoMoreThanEightTokensAreOnTheirWayToTheirFrames) {
    const Sessions sessions(shape_of(Model::plain));
    SessionOptions cpu = sessions.options("none"), device = sessions.options("TEST0");
    cpu.cache_type_v = device.cache_type_v = "q8_0";
    const Outcome expected = run(cpu, some_tokens(60), greedy(40));
    auto session = Session::open(device);
    ASSERT_TRUE(session) << session.error().message;
    ProofsHeld held;
    Outcome r;
    size_t most = 0;
    const auto text = [&](int32_t token, const std::string&) {
        if (r.text.size() == 20) held.until_nothing_moves();
        if (r.text.size() >= 20) most = std::max(most, 60 + r.text.size() - r.frames.size()); // this one is still to be decoded
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
