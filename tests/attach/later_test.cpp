// Messages that a thread of ours writes behind the program's back.
#include "attach/inside/later.h"
#include "attach/inside/rhythm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

using namespace attnscope;
using namespace attnscope::attach;

namespace {

std::mutex mutex;
std::vector<int64_t> sent; // the ids of frames' sequences
std::atomic<bool> held{false}, works{true};

bool take(const Message& message) {
    while (held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::lock_guard lock(mutex);
    sent.push_back(std::get<FrameMessage>(message).frame.sequence);
    return works;
}

FrameMessage frame(int64_t id, size_t bytes = 100) {
    FrameMessage m;
    m.frame.sequence = id;
    m.frame.q.resize(bytes);
    return m;
}

class AttachLater : public testing::Test {
protected:
    void SetUp() override { sent.clear(), held = false, works = true; }
    void TearDown() override {
        held = false;
        wait_for_later();
        works = true;
        (void)send_later(frame(-1), take); // an earlier failure is told once
        wait_for_later();
    }
};

TEST_F(AttachLater, WhoeverGivesThemGoesOnAndTheirOrderStays) {
    held = true;
    for (int64_t i = 0; i < 100; ++i) EXPECT_TRUE(send_later(frame(i), take));
    EXPECT_TRUE(sent.empty());
    held = false;
    wait_for_later();
    const std::lock_guard lock(mutex);
    ASSERT_EQ(sent.size(), 100u);
    for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(sent[size_t(i)], i);
}

// What waits is bounded: then the program waits, as it does for a full ring.
TEST_F(AttachLater, ThatManyWaitIsWaitedFor) {
    held = true;
    std::atomic<int> given{0};
    std::thread program([&] {
        for (int64_t i = 0; i < 8; ++i, ++given) EXPECT_TRUE(send_later(frame(i, size_t(8) << 20), take));
    });
    for (int i = 0; i < 10000 && given < 4; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(given, 4); // 32 MiB
    held = false;
    program.join();
    wait_for_later();
    const std::lock_guard lock(mutex);
    EXPECT_EQ(sent.size(), 8u);
}

TEST_F(AttachLater, AMessageThatCouldNotBeSentIsToldToTheNext) {
    works = false;
    (void)send_later(frame(0), take);
    wait_for_later();
    EXPECT_FALSE(send_later(frame(1), take));
}

TEST_F(AttachLater, SeveralThreadsMayGiveThem) {
    std::vector<std::thread> threads;
    for (int64_t t = 0; t < 4; ++t)
        threads.emplace_back([t] {
            for (int64_t i = 0; i < 200; ++i) EXPECT_TRUE(send_later(frame(t * 1000 + i), take));
        });
    for (std::thread& thread : threads) thread.join();
    wait_for_later();
    const std::lock_guard lock(mutex);
    ASSERT_EQ(sent.size(), 800u);
    std::vector<int64_t> next(4);
    for (const int64_t id : sent) EXPECT_EQ(id % 1000, next[size_t(id / 1000)]++);
}

} // namespace

// What rests has its last frames brought, which a graph would wait for: not between two tokens of a slow model.
TEST(AttachRhythm, AContextRestsAfterTwiceItsUsualTime) {
    using std::chrono::milliseconds;
    for (const milliseconds token : {milliseconds(2), milliseconds(8), milliseconds(60), milliseconds(150)}) {
        Rhythm rhythm;
        Rhythm::Clock::time_point now{std::chrono::hours(1)};
        for (int i = 0; i < 40; ++i) rhythm.computed(now += token);
        EXPECT_FALSE(rhythm.rests(now + token + token / 2)) << token.count();
        EXPECT_TRUE(rhythm.rests(now + std::max(2 * token, milliseconds(4)) + milliseconds(1))) << token.count();
        rhythm.computed(now += std::chrono::seconds(10)); // it rested: that is no token's time
        EXPECT_FALSE(rhythm.rests(now + token + token / 2)) << token.count();
        EXPECT_TRUE(rhythm.rests(now + std::max(2 * token, milliseconds(4)) + milliseconds(1))) << token.count();
    }
}
