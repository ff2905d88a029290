// Work in a child: what it comes to when it never ends, is given up, or takes all there is.
#include "engine/limited_child.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <string>
#include <thread>

#include <unistd.h>

namespace attnscope::engine {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

std::string compute_for_ever() {
    volatile unsigned n = 0;
    while (true) n = n + 1;
}

// Behind some milliseconds of work, as a child has on a machine that is busy.
std::string sleep_for_ever() {
    const std::clock_t begun = std::clock();
    while (std::clock() - begun < CLOCKS_PER_SEC / 200) {}
    while (true) pause();
}

TEST(LimitedChild, GivesTheTextBackOrSaysWhyNot) {
    EXPECT_EQ(*run_limited("it", [] { return std::string("text"); }), "text");
    EXPECT_EQ(*run_limited("it", [] { return std::string(); }), "");
    const auto thrown = run_limited("it", []() -> std::string { throw std::runtime_error("no"); });
    ASSERT_FALSE(thrown);
    EXPECT_EQ(thrown.error().kind, ErrorKind::invalid_argument);
    EXPECT_EQ(thrown.error().message, "it fails: no");
    const auto large = run_limited("it", [] { return std::string(size_t(65) << 20, 'x'); });
    ASSERT_FALSE(large);
    EXPECT_EQ(large.error().message, "it writes more than 64 MiB");
    const auto gone = run_limited("it", []() -> std::string { _exit(3); });
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().message.find("it ends llama.cpp's engine"), 0u) << gone.error().message;
}

TEST(LimitedChild, HasALimitOfProcessorTimeAndOneOfTimeEachWithItsSentence) {
    const auto begun = Clock::now();
    const auto computing = run_limited("it", compute_for_ever, {milliseconds(300), milliseconds(60000)});
    ASSERT_FALSE(computing);
    EXPECT_EQ(computing.error().kind, ErrorKind::unsupported);
    EXPECT_EQ(computing.error().message, "it takes more than 0.3 seconds of processor time");
    EXPECT_LT(Clock::now() - begun, milliseconds(30000));

    const auto then = Clock::now();
    const auto sleeping = run_limited("it", sleep_for_ever, {milliseconds(5000), milliseconds(300)});
    ASSERT_FALSE(sleeping);
    EXPECT_EQ(sleeping.error().kind, ErrorKind::unsupported);
    EXPECT_EQ(sleeping.error().message, "it does not end within 0.3 seconds, in which it computed for 0");
    EXPECT_GE(Clock::now() - then, milliseconds(300));
    EXPECT_LT(Clock::now() - then, milliseconds(30000));
}

TEST(LimitedChild, EndsAtOnceWhenNobodyWaitsForIt) {
    for (const auto& work : {compute_for_ever, sleep_for_ever}) {
        std::atomic<bool> leave{false};
        std::thread leaves([&] {
            std::this_thread::sleep_for(milliseconds(200));
            leave = true;
        });
        const auto begun = Clock::now();
        const auto given_up = run_limited("it", work, {}, [&] { return leave.load(); });
        EXPECT_LT(Clock::now() - begun, milliseconds(1500));
        leaves.join();
        ASSERT_FALSE(given_up);
        EXPECT_EQ(given_up.error().kind, ErrorKind::engine);
        EXPECT_EQ(given_up.error().message, "it was given up");
    }
    EXPECT_FALSE(run_limited(
        "it", [] { return std::string("text"); }, {}, [] { return true; }));
}

} // namespace
} // namespace attnscope::engine
