#include "server/http/connection_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

using namespace attnscope::server;
using namespace std::chrono_literals;

namespace {

bool becomes(const std::function<bool()>& what, std::chrono::seconds patience = 10s) {
    for (const auto end = std::chrono::steady_clock::now() + patience; std::chrono::steady_clock::now() < end;) {
        if (what()) return true;
        std::this_thread::sleep_for(1ms);
    }
    return what();
}

} // namespace

TEST(ConnectionThreads, ConnectionsThatComeAtOnceAreAllServedAtOnce) {
    for (int round = 0; round < 50; ++round) {
        ConnectionThreads threads(64);
        std::atomic<int> n_short{0}, n_running{0};
        std::promise<void> go;
        const auto going = go.get_future().share();
        for (int i = 0; i < 4; ++i) ASSERT_TRUE(threads.enqueue([&] { ++n_short; }));
        ASSERT_TRUE(becomes([&] { return n_short == 4; })); // some threads are idle now
        for (int i = 0; i < 40; ++i) {
            ASSERT_TRUE(threads.enqueue([&, going] {
                ++n_running;
                going.wait();
            }));
        }
        EXPECT_TRUE(becomes([&] { return n_running == 40; })) << n_running << " of 40 run in round " << round;
        go.set_value();
        if (HasFailure()) return;
    }
}

TEST(ConnectionThreads, NoMoreThanAllowedAreServed) {
    ConnectionThreads threads(3);
    std::promise<void> go;
    const auto going = go.get_future().share();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(threads.enqueue([going] { going.wait(); }));
    EXPECT_FALSE(threads.enqueue([] {}));
    EXPECT_EQ(threads.size(), 3u);
    go.set_value();
    EXPECT_TRUE(becomes([&] { return threads.enqueue([] {}); }));
}

TEST(ConnectionThreads, ThreadsWithoutWorkEnd) {
    ConnectionThreads threads(8, 20ms);
    std::atomic<int> n{0};
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(threads.enqueue([&] { ++n; }));
    EXPECT_TRUE(becomes([&] { return n == 8 && threads.size() == 0; }));
    ASSERT_TRUE(threads.enqueue([&] { ++n; }));
    EXPECT_TRUE(becomes([&] { return n == 9; }));
}

TEST(ConnectionThreads, ShutdownWaitsForWhatRunsAndTakesNothingMore) {
    ConnectionThreads threads(8);
    std::atomic<int> n{0};
    for (int i = 0; i < 8; ++i) {
        ASSERT_TRUE(threads.enqueue([&] {
            std::this_thread::sleep_for(50ms);
            ++n;
        }));
    }
    threads.shutdown();
    EXPECT_EQ(n, 8);
    EXPECT_FALSE(threads.enqueue([&] { ++n; }));
    threads.shutdown();
}
