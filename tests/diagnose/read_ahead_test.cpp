#include "diagnose/read_ahead.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <new>
#include <thread>

using namespace attnscope;

namespace {

// Yields 0, 1, 2, ... in memory that it writes again two calls later; every third call is an error.
class CountingReader final : public DumpReader {
public:
    explicit CountingReader(int64_t n, int64_t throws_at = -1) : n_(n), throws_at_(throws_at) {}
    const DumpInfo& info() const override { return info_; }
    bool at_end() const override { return calls_ >= n_; }
    Result<const DumpToken*> next() override {
        const int64_t call = calls_++;
        if (call == throws_at_) throw std::bad_alloc();
        if (call % 3 == 2) return Error{ErrorKind::damaged, std::to_string(call)};
        Slot& slot = slots_[static_cast<size_t>(turn_ ^= 1)];
        slot.values.fill(static_cast<float>(call));
        slot.token.number = call;
        slot.token.values = slot.values;
        return &slot.token;
    }
    int64_t calls() const { return calls_; }

private:
    struct Slot {
        DumpToken token;
        std::array<float, 1000> values;
    };
    std::array<Slot, 2> slots_;
    int turn_ = 0;
    DumpInfo info_;
    int64_t n_, throws_at_;
    std::atomic<int64_t> calls_{0};
};

} // namespace

TEST(ReadAhead, YieldsTokensAndErrorsInOrderWhileTheirMemoryHolds) {
    constexpr int64_t n = 500;
    CountingReader reader(n);
    diagnose::ReadAhead ahead(reader);
    for (int64_t i = 0; i < n; ++i) {
        auto token = ahead.next();
        if (i % 3 == 2) {
            ASSERT_FALSE(token);
            EXPECT_EQ(token.error().message, std::to_string(i));
            continue;
        }
        ASSERT_TRUE(token && *token) << i;
        EXPECT_EQ((*token)->number, i);
        if (i % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2)); // a slow look
        EXPECT_LE(reader.calls(), i + 2) << "no more than one token ahead";
        for (const float value : (*token)->values) ASSERT_EQ(value, static_cast<float>(i));
    }
    for (int i = 0; i < 3; ++i) {
        auto end = ahead.next();
        ASSERT_TRUE(end);
        EXPECT_EQ(*end, nullptr);
    }
}

TEST(ReadAhead, ReadsBeforeItIsAsked) {
    CountingReader reader(10);
    diagnose::ReadAhead ahead(reader);
    ASSERT_TRUE(ahead.next());
    for (int i = 0; i < 5000 && reader.calls() < 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(reader.calls(), 2);
}

TEST(ReadAhead, HandsOnWhatTheReaderThrows) {
    CountingReader reader(10, 1);
    diagnose::ReadAhead ahead(reader);
    ASSERT_TRUE(ahead.next());
    EXPECT_THROW((void)ahead.next(), std::bad_alloc);
    auto end = ahead.next();
    EXPECT_TRUE(end && *end == nullptr);
}

TEST(ReadAhead, CanBeLeftAtAnyMoment) {
    for (int64_t taken = 0; taken < 6; ++taken) {
        CountingReader reader(5);
        diagnose::ReadAhead ahead(reader);
        for (int64_t i = 0; i < taken; ++i) (void)ahead.next();
    }
}
