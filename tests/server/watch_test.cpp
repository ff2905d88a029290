// Which line of text a request's rows are of: right, or an error. Frames come as a program would send them.
#include "server/front/live_sequences.h"
#include "server/front/watch.h"
#include "view/live_model.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

constexpr ContextId context{1, 2};

// A program of which the test says what it decodes. Everything it tells is taken at once.
class Told {
public:
    Told() : model_({}, 1) {
        live.context_begins(context, model_.geometry(), {});
        reader_ = std::thread([this] {
            while (!done_) {
                live.all_taken(std::chrono::milliseconds(1));
            }
        });
    }
    ~Told() {
        done_ = true;
        reader_.join();
    }
    void begin(int64_t line, int64_t parent = -1, int64_t n_shared = 0) {
        live.line_begins({context, line}, parent, n_shared);
        length_[line] = n_shared;
    }
    void decode(int32_t slot, int64_t line, const std::vector<int32_t>& tokens) {
        for (const int32_t token : tokens) {
            Frame frame = frame_;
            if (frame.q.empty()) frame = frame_ = model_.next();
            frame.sequence = line;
            frame.index = length_[line]++;
            frame.position = static_cast<int32_t>(frame.index);
            frame.token = token;
            for (Ranges& visible : frame.visible) visible = {{0, frame.index + 1}};
            live.frame(context, slot, frame);
        }
    }
    LiveSequences live;

private:
    LiveModel model_;
    Frame frame_;
    std::map<int64_t, int64_t> length_;
    std::atomic<bool> done_{false};
    std::thread reader_;
};

WatchOptions asked(int32_t slot, std::vector<int32_t> prompt) {
    WatchOptions options;
    options.slot = slot;
    options.prompt = std::move(prompt);
    options.patience = std::chrono::milliseconds(200);
    return options;
}

TEST(Watch, FindsTheLineOfItsOwnSlotAmongEqualPrompts) {
    Told told;
    Watch watch(told.live, asked(2, {5, 6, 7}));
    ASSERT_TRUE(watch.begin());
    for (int64_t line = 0; line < 4; ++line) told.begin(line);
    for (int32_t slot = 0; slot < 4; ++slot) told.decode(slot, slot, {5, 6, 7});
    for (int32_t slot = 3; slot >= 0; --slot) told.decode(slot, slot, {8, 9});
    const auto found = watch.find({});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->line.line, 2);
    EXPECT_EQ(found->n_reused, 0);
    for (int64_t n = 0; n < 3; ++n) {
        const auto frame = watch.frame(n, n == 0 ? std::nullopt : std::optional<int32_t>(7 + static_cast<int32_t>(n)));
        ASSERT_TRUE(frame) << frame.error().message;
        EXPECT_EQ((*frame)->sequence, 2);
        EXPECT_EQ((*frame)->index, 2 + n);
    }
    EXPECT_FALSE(watch.frame(3, 10)); // never decoded
}

TEST(Watch, WhatWasDecodedBeforeIsNotItsOwn) {
    Told told;
    told.begin(0);
    told.decode(0, 0, {5, 6, 7, 8});
    Watch watch(told.live, asked(0, {5, 6, 7}));
    ASSERT_TRUE(watch.begin());
    EXPECT_FALSE(watch.find({}));
    // The last token of the prompt again, as a server does that has all of it already.
    told.begin(1, 0, 2);
    told.decode(0, 1, {7, 9});
    const auto found = watch.find({});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->line.line, 1);
    EXPECT_EQ(found->n_reused, 2);
    const auto keys = told.live.keys(found->line, 3);
    ASSERT_TRUE(keys);
    EXPECT_EQ((*keys)->size(), 3);
}

// Layers on devices: what was computed before is told to be on its way, and comes while the request begins.
TEST(Watch, FramesThatAreStillToComeAreWaitedFor) {
    Told told;
    told.begin(0);
    told.live.frames_due(context, 3);
    const auto asked_at = std::chrono::steady_clock::now();
    std::thread device([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(60));
        told.decode(0, 0, {5, 6, 7});
    });
    Watch watch(told.live, asked(0, {5, 6, 7}));
    ASSERT_TRUE(watch.begin());
    EXPECT_GE(std::chrono::steady_clock::now() - asked_at, std::chrono::milliseconds(55));
    device.join();
    EXPECT_FALSE(watch.find({})); // they are another request's
    told.begin(1, 0, 2);
    told.live.frames_due(context, 4);
    std::thread later([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(60));
        told.decode(0, 1, {7});
    });
    const auto found = watch.find({});
    later.join();
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->line.line, 1);
}

TEST(Watch, FramesThatOvertookWhatTellsOfThemAreNotWaitedFor) {
    Told told;
    told.begin(0);
    told.decode(0, 0, {5, 6, 7});
    told.live.frames_due(context, 3);
    Watch watch(told.live, asked(0, {5, 6, 7}));
    const auto asked_at = std::chrono::steady_clock::now();
    EXPECT_TRUE(watch.begin());
    EXPECT_LT(std::chrono::steady_clock::now() - asked_at, std::chrono::milliseconds(200));
}

TEST(Watch, FramesThatWillNeverComeAreNotWaitedForOnceThatIsTold) {
    Told told;
    told.begin(0);
    told.live.frames_due(context, 3);
    Watch watch(told.live, asked(0, {5, 6, 7}));
    EXPECT_FALSE(watch.begin()); // its patience is over
    std::thread device([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        told.live.frames_due(context, 0);
    });
    EXPECT_TRUE(watch.begin());
    device.join();
    told.live.frames_due(context, 3);
    std::thread end([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        told.live.context_ends(context);
    });
    EXPECT_TRUE(watch.begin());
    end.join();
}

TEST(Watch, TwoThatFitAreAnError) {
    for (const int32_t slot : {0, -1}) { // the same slot twice; or a cache that tells no slots
        Told told;
        Watch watch(told.live, asked(0, {5, 6, 7}));
        ASSERT_TRUE(watch.begin());
        told.begin(0);
        told.begin(1);
        told.decode(slot, 0, {5, 6, 7, 8});
        told.decode(slot, 1, {5, 6, 7, 8});
        const auto found = watch.find({});
        ASSERT_FALSE(found);
        EXPECT_NE(found.error().message.find("another request with the same prompt"), std::string::npos);
    }
}

TEST(Watch, OfTwoThatFitTheOneIsTakenThatTheProgramsAnswerDoesNotContradict) {
    for (const Watch::Told& said : {Watch::Told{{9}, -1}, Watch::Told{{}, 3}, Watch::Told{{9, 4}, 3}}) {
        Told told;
        Watch watch(told.live, asked(0, {5, 6, 7}));
        ASSERT_TRUE(watch.begin());
        told.begin(0);
        told.begin(1);
        told.decode(0, 0, {5, 6, 7, 8});
        told.decode(0, 1, {5, 6, 7, 9, 4});
        const auto found = watch.find(said);
        ASSERT_TRUE(found) << found.error().message;
        EXPECT_EQ(found->line.line, 1);
        const auto frame = watch.frame(0, std::nullopt);
        ASSERT_TRUE(frame);
        EXPECT_EQ((*frame)->sequence, 1);
    }
    // What contradicts both is nobody's.
    Told told;
    Watch watch(told.live, asked(0, {5, 6, 7}));
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.begin(1);
    told.decode(0, 0, {5, 6, 7, 8});
    told.decode(0, 1, {5, 6, 7, 9});
    EXPECT_FALSE(watch.find({{1}, -1}));
}

TEST(Watch, WhatFitsAfterwardsIsAnotherRequests) {
    Told told;
    Watch watch(told.live, asked(0, {5, 6, 7}));
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.decode(0, 0, {5, 6, 7, 8});
    ASSERT_TRUE(watch.find({}));
    told.begin(1, 0, 2);
    told.decode(0, 1, {7, 8, 9});
    for (int64_t n = 0; n < 2; ++n) {
        const auto frame = watch.frame(n, n == 0 ? std::nullopt : std::optional<int32_t>(8));
        ASSERT_TRUE(frame) << frame.error().message;
        EXPECT_EQ((*frame)->sequence, 0);
    }
    const auto none = watch.frame(2, 9); // the other's third token is not ours
    ASSERT_FALSE(none);
}

TEST(Watch, GoesOnInALineThatBranchesOff) {
    Told told;
    Watch watch(told.live, asked(0, {5, 6}));
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.decode(0, 0, {5, 6});
    told.decode(1, 0, {7}); // another slot holds the same cells and goes on first
    told.begin(1, 0, 2);
    told.decode(0, 1, {7, 8});
    ASSERT_TRUE(watch.find({}));
    const std::vector<int64_t> lines{0, 1, 1};
    for (int64_t n = 0; n < 3; ++n) {
        const auto frame = watch.frame(n, n == 0 ? std::nullopt : std::optional<int32_t>(6 + static_cast<int32_t>(n)));
        ASSERT_TRUE(frame) << frame.error().message;
        EXPECT_EQ((*frame)->sequence, lines[static_cast<size_t>(n)]);
    }
}

TEST(Watch, WhereSlotsAreNotToldApartABranchIsAmbiguous) {
    Told told;
    Watch watch(told.live, asked(0, {5, 6}));
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.decode(-1, 0, {5, 6});
    ASSERT_TRUE(watch.find({}));
    ASSERT_TRUE(watch.frame(0, std::nullopt));
    told.decode(-1, 0, {7});
    told.begin(1, 0, 2);
    told.decode(-1, 1, {7});
    EXPECT_FALSE(watch.frame(1, 7));
}

TEST(Watch, TokensThatWereTakenBackHaveNoRows) {
    for (const bool token_known : {true, false}) {
        Told told;
        Watch watch(told.live, asked(0, {5, 6}));
        ASSERT_TRUE(watch.begin());
        told.begin(0);
        told.decode(0, 0, {5, 6, 7, 8}); // 8 was a guess
        ASSERT_TRUE(watch.find({}));
        ASSERT_TRUE(watch.frame(0, std::nullopt));
        told.begin(1, 0, 3);
        told.decode(0, 1, {9});
        const auto known = [&](int32_t token) { return token_known ? std::optional(token) : std::nullopt; };
        ASSERT_TRUE(watch.frame(1, known(7)));
        EXPECT_FALSE(watch.frame(2, known(9)));
    }
}

TEST(Watch, AnotherTokenThanWasToldIsAnError) {
    Told told;
    Watch watch(told.live, asked(0, {5, 6}));
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.decode(0, 0, {5, 6, 7});
    ASSERT_TRUE(watch.find({}));
    ASSERT_TRUE(watch.frame(0, std::nullopt));
    EXPECT_FALSE(watch.frame(1, 8));
}

TEST(Watch, OfFramesThatNobodyTakesOnlySoManyAreKept) {
    Told told;
    WatchOptions options = asked(0, {5, 6});
    options.frame_bytes = 1; // less than one
    Watch watch(told.live, options);
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.decode(0, 0, {5, 6, 7});
    ASSERT_TRUE(watch.find({}));
    const auto frame = watch.frame(0, std::nullopt);
    ASSERT_FALSE(frame);
    EXPECT_NE(frame.error().message.find("--stream-mb"), std::string::npos);
}

WatchOptions patient() {
    WatchOptions options = asked(0, {5, 6});
    options.patience = std::chrono::seconds(30);
    return options;
}

// The prompt is decoded, and the frame that chose the first token is taken.
void take_first(Told& told, Watch& watch) {
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.decode(0, 0, {5, 6});
    ASSERT_TRUE(watch.find({}));
    ASSERT_TRUE(watch.frame(0, std::nullopt));
}

// A context was shifted: what comes behind goes on from cells that nobody knows.
TEST(Watch, TokensThatAreNotCapturedAreToldSoonAndLaterOnesAtOnce) {
    Told told;
    Watch watch(told.live, patient());
    ASSERT_NO_FATAL_FAILURE(take_first(told, watch));
    const auto start = std::chrono::steady_clock::now();
    for (int64_t n = 1; n < 50; ++n) {
        const auto frame = watch.frame(n, 7);
        ASSERT_FALSE(frame);
        EXPECT_NE(frame.error().message.find("was not captured"), std::string::npos) << frame.error().message;
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
}

// Whoever comes next may ask the same, before anybody has looked whose line it was.
TEST(Watch, WhatComesBehindAWholeAnswerIsNoneOfIt) {
    Told told;
    Watch watch(told.live, asked(-1, {5, 6}));
    ASSERT_TRUE(watch.begin());
    told.begin(0);
    told.decode(-1, 0, {5, 6, 7});
    watch.close();
    told.begin(1);
    told.decode(-1, 1, {5, 6, 8});
    told.decode(-1, 0, {9}); // a next turn of the same conversation
    const auto found = watch.find({{}, 2});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->line, (LineId{context, 0}));
    EXPECT_EQ(watch.arrived(), 2);
}

TEST(Watch, AProgramThatEndsIsToldAtOnce) {
    Told told;
    Watch watch(told.live, patient());
    ASSERT_NO_FATAL_FAILURE(take_first(told, watch));
    told.live.program_ends(context.program);
    const auto frame = watch.frame(1, 7);
    ASSERT_FALSE(frame);
    EXPECT_NE(frame.error().message.find("ended"), std::string::npos);
}

TEST(LiveSequences, ForgetsTheKeysThatRestedLongest) {
    LiveModel model({}, 1);
    LiveSequences::Options options;
    options.key_bytes = model.geometry().k_bytes() * 256 * 2; // two chunks
    LiveSequences live(options);
    live.context_begins(context, model.geometry(), {});
    Frame frame = model.next();
    for (int64_t line = 0; line < 3; ++line) {
        live.line_begins({context, line}, -1, 0);
        frame.sequence = line;
        live.frame(context, 0, frame);
    }
    EXPECT_FALSE(live.keys({context, 0}, 1));
    EXPECT_TRUE(live.keys({context, 1}, 1));
    EXPECT_TRUE(live.keys({context, 2}, 1));
    // What goes on from it has none either, and nothing breaks.
    live.line_begins({context, 3}, 0, 1);
    EXPECT_FALSE(live.keys({context, 3}, 1));
}

TEST(LiveSequences, LinesAndFramesThatMakeNoSenseAreLeftOut) {
    LiveModel model({}, 1);
    LiveSequences live;
    Frame frame = model.next();
    live.frame(context, 0, frame); // no context
    live.line_begins({context, 0}, -1, 0);
    live.context_begins(context, model.geometry(), {});
    live.frame(context, 0, frame);        // no line
    live.line_begins({context, 1}, 7, 3); // no parent
    live.line_begins({context, 2}, -1, 0);
    live.line_begins({context, 3}, 2, 1000); // more than it has
    live.line_begins({context, 4}, 2, -1);
    frame.sequence = 2;
    frame.index = 5; // not the next one
    live.frame(context, 0, frame);
    EXPECT_FALSE(live.keys({context, 2}, 1));
    frame.index = 0;
    frame.k.pop_back();
    live.frame(context, 0, frame);
    EXPECT_FALSE(live.keys({context, 2}, 1));
    live.context_ends(context);
    live.context_ends(context);
    EXPECT_FALSE(live.geometry());
}

} // namespace
