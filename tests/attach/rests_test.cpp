// How long the parent rests: long where nothing comes, and not at all where a ring fills.
#include "attach/inside/outbox.h"
#include "attach/parent/inbox.h"
#include "attach/parent/rests.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include <unistd.h>

using namespace attnscope::attach;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

class AttachRests : public testing::Test {
protected:
    void SetUp() override {
        const auto say = [this](ProgramRecorder::About, const std::string& line) { n_bytes += line.size(); };
        auto made = Inbox::create([=] { return std::make_unique<ProgramRecorder>("", "{}", say, nullptr); }, say);
        ASSERT_TRUE(made);
        inbox = std::move(*made);
    }
    std::unique_ptr<Outbox> program() const {
        setenv("ATTNSCOPE_RING_MIB", "1", 1);
        auto made = Outbox::create(inbox->folder());
        unsetenv("ATTNSCOPE_RING_MIB");
        return made ? std::move(*made) : nullptr;
    }
    std::unique_ptr<Inbox> inbox;
    size_t n_bytes = 0;
};

TEST_F(AttachRests, AreShortUntilAProgramIsThereAndBehindManyTokens) {
    Rests watched(*inbox, true), alone(*inbox, false);
    EXPECT_LE(alone.next(), 20ms);
    const std::unique_ptr<Outbox> out = program();
    ASSERT_TRUE(out && out->send(Notice{"one"}));
    inbox->look_for_rings();
    EXPECT_TRUE(alone.take());
    EXPECT_FALSE(alone.take());
    EXPECT_GT(alone.next(), watched.next());
    EXPECT_GE(watched.next(), 100ms);
    for (int i = 0; i < 300; ++i) ASSERT_TRUE(out->send(Notice{"many"}));
    while (alone.take()) {}
    EXPECT_LE(alone.next(), 2ms);
    EXPECT_GE(alone.next(), 100ms); // they are behind us
}

// Whoever waits until all was taken that programs had told (LiveSequences::wait_for_all) waits for what a new one has told, too.
TEST_F(AttachRests, BeginWhenWhatLiesInANewRingIsTaken) {
    Rests rests(*inbox, true);
    EXPECT_FALSE(rests.take());
    for (int i = 0; i < 3; ++i) {
        const std::unique_ptr<Outbox> out = program();
        ASSERT_TRUE(out && out->send(Notice{"one"}));
        EXPECT_TRUE(rests.take()) << i;
        EXPECT_FALSE(rests.take()) << i;
    }
}

TEST_F(AttachRests, EndWhereADescriptorCanBeRead) {
    Rests rests(*inbox, false);
    std::array<int, 2> pipe_ends{};
    ASSERT_EQ(pipe(pipe_ends.data()), 0);
    const std::array calls{-1, pipe_ends[0]};
    Clock::time_point begin = Clock::now();
    rests.rest(50ms, calls);
    EXPECT_GE(Clock::now() - begin, 49ms);
    ASSERT_EQ(write(pipe_ends[1], "x", 1), 1);
    begin = Clock::now();
    rests.rest(10s, calls);
    EXPECT_LT(Clock::now() - begin, 5s);
    close(pipe_ends[0]), close(pipe_ends[1]);
}

// Sixty rings' worth of messages: without a call each would wait until the parent looks by itself.
TEST_F(AttachRests, EndWhereARingFills) {
    const std::unique_ptr<Outbox> out = program();
    ASSERT_TRUE(out && out->send(Notice{"one"}));
    inbox->look_for_rings();
    constexpr size_t n = 240, size = size_t(1) << 18;
    std::thread other([&] {
        for (size_t i = 0; i < n; ++i) {
            if (!out->send(Notice{std::string(size, 'x')})) return;
        }
    });
    Rests rests(*inbox, false);
    const Clock::time_point begin = Clock::now();
    while (n_bytes < n * size && Clock::now() - begin < 60s) {
        if (!rests.take()) rests.rest(rests.next(), {});
    }
    other.join();
    EXPECT_GE(n_bytes, n * size);
    EXPECT_LT(Clock::now() - begin, 7s); // of 15 s
}

} // namespace
