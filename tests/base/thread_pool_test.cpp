// Threads that do what the decoding thread has no time for.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <mutex>
#include <set>
#include <stdexcept>

using namespace attnscope;

TEST(ThreadPool, OneThreadDoesEverythingInTheOrderOfTheCalls) {
    base::ThreadPool helpers(1);
    std::vector<int> done; // no lock: one thread, and the futures order it before us
    std::set<std::thread::id> threads;
    std::vector<std::future<void>> calls;
    for (int i = 0; i < 500; ++i) {
        calls.push_back(helpers.call([&, i] {
            done.push_back(i);
            threads.insert(std::this_thread::get_id());
        }));
        if (i % 50 == 0) calls.back().wait(); // it goes to sleep now and then
    }
    for (auto& c : calls) c.get();
    ASSERT_EQ(done.size(), 500u);
    for (int i = 0; i < 500; ++i) EXPECT_EQ(done[size_t(i)], i);
    EXPECT_EQ(threads.size(), 1u);
    EXPECT_FALSE(threads.contains(std::this_thread::get_id()));
}

TEST(ThreadPool, AsManyWorkAtOnceAsAreAllowed) {
    base::ThreadPool helpers(3);
    std::latch all(3); // opens only when three are in it
    std::atomic<int> inside{0}, most{0};
    std::vector<std::future<void>> calls;
    for (int i = 0; i < 30; ++i) {
        calls.push_back(helpers.call([&, i] {
            const int now = ++inside;
            for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {}
            if (i < 3) all.arrive_and_wait();
            --inside;
        }));
    }
    for (auto& c : calls) c.get();
    EXPECT_EQ(most, 3);
}

TEST(ThreadPool, WhatIsThrownComesOutOfTheFutureAndTheThreadGoesOn) {
    base::ThreadPool helpers(1);
    std::future<void> bad = helpers.call([] { throw std::runtime_error("no memory"); });
    bool done = false;
    std::future<void> good = helpers.call([&] { done = true; });
    EXPECT_THROW(bad.get(), std::runtime_error);
    good.get();
    EXPECT_TRUE(done);
}

TEST(ThreadPool, TheEndWaitsForWhatHasBegunAndDropsTheRest) {
    std::future<void> begun, waiting;
    std::atomic<bool> ended{false}, started{false};
    {
        base::ThreadPool helpers(1);
        begun = helpers.call([&] {
            started = true;
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            ended = true;
        });
        waiting = helpers.call([] { FAIL() << "this was never to run"; });
        while (!started) std::this_thread::yield();
    }
    EXPECT_TRUE(ended);
    begun.get();
    EXPECT_THROW(waiting.get(), std::future_error);
}

TEST(ThreadPool, NobodyIsStartedWhoIsNotAsked) {
    base::ThreadPool helpers(4);
}
