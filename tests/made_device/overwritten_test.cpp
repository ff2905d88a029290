// What is still being read of a device, or proven of it, is not overwritten by what the engine does next.
#include "made_device/proofs_held.h"
#include "made_device/run.h"

#include <gtest/gtest.h>

#include <cmath>

using namespace attnscope;
using namespace attnscope::test;

namespace {

using Order = MadeStreams::Order;

// Of the frames [first, end).
double worst_mean(const Outcome& outcome, size_t first, size_t end) {
    double worst = 0;
    for (size_t i = first; i < end; ++i) {
        const std::vector<double> rows = mean_of_rows(outcome, i);
        const std::vector<float>& mean = outcome.means[i];
        if (mean.size() != rows.size()) return 1;
        for (size_t j = 0; j < rows.size(); ++j) {
            const double difference = std::fabs(rows[j] - static_cast<double>(mean[j]));
            worst = std::isnan(difference) ? 1 : std::max(worst, difference);
        }
    }
    return worst;
}

} // namespace

// Every token takes the cell of the one before, whose keys have only been asked for.
TEST_F(OnMadeDevices, KeysOfATokenThatIsTakenBackAreThoseItHad) {
    for (const Model model : {Model::plain, Model::windows}) {
        const Sessions sessions(shape_of(model));
        const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(40), take_back_one);
        for (const char* devices : {"TEST0", "TEST0,TEST1"}) {
            for (const Order order : {Order::engine_first, Order::engine_last}) {
                MadeDevice::steer().streams.set_order(order);
                expect_same(expected, run(sessions.options(devices), some_tokens(60), greedy(40), take_back_one), 100);
            }
        }
    }
}

// A mean reads all keys that its token sees: the next token must not take the cell of one of them before it is done.
TEST_F(OnMadeDevices, MeansOfATokenThatIsTakenBackAreThoseOfItsRows) {
    const Sessions sessions(shape_of(Model::plain));
    SessionOptions o = sessions.options("TEST0");
    o.device_mean = true;
    MadeDevice::steer().streams.set_order(Order::engine_first);
    const Outcome r = run(o, some_tokens(60), greedy(40), take_back_one);
    ASSERT_EQ(r.error, "");
    ASSERT_EQ(r.frames.size(), 100u);
    EXPECT_LE(worst_mean(r, 60, 100), 1e-5);
}

// Two tokens are taken back at once, while the older one of them is still made a frame of.
TEST_F(OnMadeDevices, ColumnsOfAFrameInTheMakingAreThoseItHad) {
    const Sessions sessions(shape_of(Model::plain));
    const auto take_back = [n = 0](Session& session) mutable {
        if (++n % 3 == 0) take_back_one(session), take_back_one(session);
    };
    SessionOptions o = sessions.options("TEST0");
    const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(40), take_back);
    o.device_mean = true;
    MadeDevice::steer().streams.set_order(Order::engine_first, std::chrono::milliseconds(3));
    const Outcome r = run(o, some_tokens(60), greedy(40), take_back);
    expect_same(expected, r, 100);
    EXPECT_LE(worst_mean(r, 60, 100), 1e-5);
}

// The token whose mean is still computed need not be the last: others may have been decoded since, without a mean.
TEST_F(OnMadeDevices, MeansOfAnEarlierTokenThatIsTakenBackAreThoseOfItsRows) {
    const Sessions sessions(shape_of(Model::plain));
    SessionOptions o = sessions.options("TEST0");
    o.device_mean = true;
    GenerateOptions g = greedy(30);
    g.mean_wanted = [](int64_t index) { return index % 3 == 0; };
    MadeDevice::steer().streams.set_order(Order::engine_first, std::chrono::milliseconds(20));
    const Outcome r = run(o, some_tokens(60), g, [n = 0](Session& session) mutable {
        // 60 has a mean, 61 has none; 62 takes the cell of 60.
        if (n++ % 3 == 2) take_back_one(session), take_back_one(session);
    });
    ASSERT_EQ(r.error, "");
    ASSERT_EQ(r.frames.size(), 90u);
    for (size_t i = 60; i < 90; ++i) {
        EXPECT_EQ(r.means[i].empty(), i % 3 != 0) << i;
        if (i % 3 != 0) continue;
        EXPECT_LE(worst_mean(r, i, i + 1), 1e-5) << i;
    }
}

// Positions are counted anew behind tokens that are forgotten: the engine turns all keys of its cache in a graph of its own, before
// which the last token's must have been read.
TEST_F(OnMadeDevices, KeysAreThoseFromBeforeTheEngineMovesThem) {
    const Sessions sessions(shape_of(Model::plain));
    const auto shift = [n = 0](Session& session) mutable {
        if (++n % 4 == 0) forget_first(session, 3);
    };
    const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(20), shift);
    for (const Order order : {Order::engine_first, Order::engine_last}) {
        MadeDevice::steer().streams.set_order(order);
        const Outcome r = run(sessions.options("TEST0"), some_tokens(60), greedy(20), shift);
        ASSERT_EQ(expected.error + r.error, "");
        ASSERT_EQ(r.frames.size(), expected.frames.size());
        for (size_t i = 0; i < r.frames.size(); ++i) {
            ASSERT_TRUE(r.frames[i].q == expected.frames[i].q) << i;
            ASSERT_TRUE(r.frames[i].k == expected.frames[i].k) << i;
            ASSERT_TRUE(r.frames[i].visible == expected.frames[i].visible) << i;
        }
    }
}

// A ring as small as the engine makes it: a token's window and one batch. What a token saw is overwritten five tokens later, when
// its proof, which reads copies in host memory, may still wait for a core.
TEST_F(OnMadeDevices, ProofsThatWaitReadWhatTheirTokenSaw) {
    models::ModelShape shape = shape_of(Model::windows);
    shape.window = 252;
    const Sessions sessions(shape);
    SessionOptions cpu = sessions.options("none"), device = sessions.options("TEST0");
    for (SessionOptions* o : {&cpu, &device}) ProofsHeld::prepare(*o), o->n_batch = 4;
    const Outcome expected = run(cpu, some_tokens(300), greedy(24));
    ProofsHeld held;
    size_t n = 0;
    const Outcome r = run(device, some_tokens(300), greedy(24), [&](Session&) {
        if (++n == 8) held.until_nothing_moves();
        held.moves();
    });
    held.release();
    EXPECT_GT(held.n_waited(), 0);
    expect_same(expected, r, 324);
}
