// Programs whose layers lie on devices: the frames are those of our own capture, though they come some tokens late.
#include "attach/device_fixture.h"
#include "attach/own_capture.h"
#include "attach/parent/run_attached.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

namespace {

// What a program tells of frames that are still to come, against those that come.
class Counting final : public attach::FrameListener {
public:
    int64_t n_frames = 0, n_due = 0, n_too_few = 0; // told while more had come already
    void stream_begins(uint64_t, const attach::StreamBegin&, const Piece&) override {}
    void sequence_begins(uint64_t, const attach::SequenceBegin&) override {}
    void frame(uint64_t, const attach::FrameMessage&) override { ++n_frames; }
    void frames_due(uint64_t, const attach::FramesDue& due) override {
        n_due = due.n;
        n_too_few += n_due < n_frames;
    }
    void stream_ends(uint64_t, uint32_t) override {}
    void program_ends(uint64_t) override {}
    void all_taken(std::chrono::milliseconds most, std::span<const int>) override { std::this_thread::sleep_for(most); }
};

} // namespace

// Who waits for a token's frame waits until so many have come: one too few, and it is told that there is none.
TEST_F(AttachDevices, AsManyFramesComeAsAreToldToBeDue) {
    setenv("ATTNSCOPE_ATTACH_DEVICES", "1", 1);
    for (const char* way : {"slots", "restore", "again"}) {
        Counting counting;
        attach::AttachOptions options;
        options.argv = {ATTNSCOPE_ATTACH_DEVICE_STATES_HOST, model, way};
        options.listener = &counting;
        options.say = [](attach::ProgramRecorder::About, const std::string&) {};
        const auto end = attach::run_attached(options);
        ASSERT_TRUE(end) << end.error().message;
        EXPECT_EQ(end->exit_code, 0) << way;
        EXPECT_GT(counting.n_frames, 15) << way;
        EXPECT_EQ(counting.n_due, counting.n_frames) << way;
        EXPECT_EQ(counting.n_too_few, 0) << way;
    }
    unsetenv("ATTNSCOPE_ATTACH_DEVICES");
}

TEST_F(AttachDevices, RowsAreThoseOfOurOwnCapture) {
    for (const char* flash : {"0", "1"}) {
        std::filesystem::remove_all(out);
        std::filesystem::create_directory(out);
        const Answer plain = shell(host(flash)), attached = attach(host(flash));
        ASSERT_EQ(plain.code, 0);
        EXPECT_EQ(attached.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        EXPECT_EQ(lines(), printed(plain.output)) << said;
        const std::vector<std::string> all = recordings(out);
        ASSERT_EQ(all.size(), 1u) << said;
        EXPECT_TRUE(on_devices(all[0]));
        expect_rows_of_our_own_capture(
            all[0], numbers(plain.output),
            {program, model, dir.file(std::string("own") + flash), "11 27 3 91 45 8", flash == std::string("1")});
    }
}

// The program waits for the logits, and nobody for what is captured: of each token it goes to the host behind them. Of the first ones it
// is not known yet that we are told when the program waits.
TEST_F(AttachDevices, WhatIsCapturedGoesToTheHostBehindTheLogits) {
    const std::string file = dir.file("copies");
    EXPECT_EQ(attach(host("1"), "ATTACH_DEVICES_COPIES=" + file).code, 0);
    std::string copies;
    std::getline(std::ifstream(file), copies);
    ASSERT_NE(copies.find('L'), std::string::npos) << copies;
    copies.resize(copies.rfind('L')); // the program may have ended before the last one's came
    const size_t each = copies.size() - 1 - copies.rfind('L');
    int n = 0;
    for (; n < 20 && !copies.empty(); ++n) { // tokens, from the last one on
        const size_t logits = copies.rfind('L');
        ASSERT_NE(logits, std::string::npos) << copies;
        ASSERT_EQ(copies.size() - 1 - logits, each) << n << " tokens before the end: " << copies;
        copies.resize(logits);
    }
    EXPECT_EQ(n, 20);
    EXPECT_GT(each, 0u);
}

// Nothing of a program is decoded for a second; then it is no more.
TEST_F(AttachDevices, FramesComeWhenTheProgramRests) {
    const Answer killed = attach("timeout -s KILL 4 " + host("1"), "ATTACH_HOST_PAUSE=1000");
    EXPECT_NE(killed.code, 0);
    const std::vector<Line> decoded = printed(killed.output + "\n"), recorded = lines();
    ASSERT_FALSE(decoded.empty()) << said;
    EXPECT_GE(decoded[0].size(), 7u);
    ASSERT_EQ(recorded.size(), 1u) << said;
    // The last one may have been killed in its decode; until the next one comes two would be on their way.
    EXPECT_GE(recorded[0].size() + 1, decoded[0].size());
    EXPECT_TRUE(recorded[0].size() <= decoded[0].size() &&
                std::equal(recorded[0].begin(), recorded[0].end(), decoded[0].begin()));
}

// A program looks at its start whether it can take back tokens: it decodes two and clears its cache, all of its memory, before anything of
// them has left the device.
TEST_F(AttachDevices, WhatIsClearedAwayIsTakenBefore) {
    const std::string command = ATTNSCOPE_ATTACH_DEVICE_STATES_HOST " " + model + " clear";
    const Answer plain = shell(command), attached = attach(command);
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.output, plain.output) << said;
    std::vector<Line> decoded = printed(plain.output), recorded = lines();
    ASSERT_EQ(decoded.size(), 3u);
    std::sort(decoded.begin(), decoded.end());
    std::sort(recorded.begin(), recorded.end());
    EXPECT_EQ(recorded, decoded) << said;
    for (const std::string& path : recordings(out)) {
        const Answer verified = shell(program + " verify " + path + " 2>&1");
        EXPECT_EQ(verified.code, 0) << verified.output;
    }
}

// Streams of a cache, one for each text, as servers have them: a graph holds tokens of several.
TEST_F(AttachDevices, StreamsOfACacheAreThoseOfAProgramOnTheCpu) {
    for (const char* flash : {"1", "0"}) {
        std::vector<std::vector<std::string>> recorded;
        for (const std::string& host :
             {std::string(ATTNSCOPE_ATTACH_STATES_HOST), std::string(ATTNSCOPE_ATTACH_DEVICE_STATES_HOST)}) {
            out = dir.file(std::string("slots") + flash + std::to_string(recorded.size()));
            std::filesystem::create_directory(out);
            const std::string command = host + " " + model + " slots " + flash;
            const Answer plain = shell(command), attached = attach(command);
            ASSERT_EQ(plain.code, 0);
            EXPECT_EQ(attached.output, plain.output) << said;
            std::vector<Line> told = lines(), decoded = printed(plain.output);
            std::sort(told.begin(), told.end());
            std::sort(decoded.begin(), decoded.end());
            EXPECT_EQ(told, decoded) << said;
            recorded.push_back(recordings(out));
        }
        ASSERT_EQ(recorded[0].size(), recorded[1].size());
        for (size_t i = 0; i < recorded[0].size(); ++i) {
            EXPECT_TRUE(on_devices(recorded[1][i]));
            expect_same_rows(recorded[0][i], recorded[1][i]);
        }
    }
}
