// Messages of a program into recordings, also of one that never ends a line.
#include "attach/parent/recorder.h"
#include "recording/synthetic.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

using namespace attnscope;
using namespace attnscope::attach;
using namespace attnscope::test;

namespace {

// What is told of where lines are recorded, and when.
class Heard : public FrameListener {
public:
    void stream_begins(uint64_t, const StreamBegin&, const Piece&) override {}
    void sequence_begins(uint64_t, const SequenceBegin&) override {}
    void sequence_recorded(uint64_t, const SequenceRecorded& where) override {
        told.push_back(where);
        latest[where.line] = where;
    }
    // A frame finds what was told before it.
    void frame(uint64_t, const FrameMessage& m) override { at_frame = latest[m.frame.sequence]; }
    void frames_due(uint64_t, const FramesDue&) override {}
    void stream_ends(uint64_t, uint32_t) override {}
    void program_ends(uint64_t) override {}
    void all_taken(std::chrono::milliseconds, std::span<const int>) override {}
    std::vector<SequenceRecorded> told;
    std::map<int64_t, SequenceRecorded> latest;
    SequenceRecorded at_frame;
};

class AttachRecorder : public testing::Test {
protected:
    void begin_stream() {
        recorder.take(Hello{4711, "/bin/program", "/lib/libllama.so", "ggml 0.25.1", "interposed"});
        recorder.take(StreamBegin{0, 0, {}, geometry});
    }
    void begin(int64_t id, int64_t parent = -1, int64_t n_shared = 0) {
        recorder.take(SequenceBegin{0, id, parent, n_shared});
    }
    void frame(int64_t id, int64_t index) {
        FrameMessage m;
        m.frame = make_frame(geometry, {index, id});
        recorder.take(std::move(m));
    }
    bool was_said(const std::string& words) const {
        for (const std::string& line : said) {
            if (line.find(words) != std::string::npos) return true;
        }
        return false;
    }
    TempDir dir;
    const Geometry geometry = uniform_geometry({});
    std::vector<std::string> said, problems;
    Heard heard;
    ProgramRecorder recorder{dir.path().string(), "{}",
                             [this](ProgramRecorder::About about, const std::string& line) {
                                 said.push_back(line);
                                 if (about == ProgramRecorder::About::problem) problems.push_back(line);
                             },
                             &heard};
};

TEST_F(AttachRecorder, ThatTokensHaveNoTextsIsSaid) {
    begin_stream();
    EXPECT_TRUE(was_said("process 4711: tokens have no texts: the program has no GGUF file open"));
}

// attnscope serve says of its own server only what is wrong.
TEST_F(AttachRecorder, WhatIsWrongIsToldApartFromWhatGoesWell) {
    begin_stream();
    recorder.take(Notice{"nothing of it is captured: it cannot be"});
    EXPECT_TRUE(was_said("process 4711 ("));
    ASSERT_EQ(problems.size(), 2u); // and that tokens have no texts
    EXPECT_EQ(problems[1], "process 4711: nothing of it is captured: it cannot be");
}

// As many lines as drafts that are taken back: few stay open, and one that goes on after all is whole.
TEST_F(AttachRecorder, ALineThatRestedGoesOnAsOneThatSharesAllOfIt) {
    begin_stream();
    begin(0);
    for (int64_t i = 0; i < 10; ++i) frame(0, i);
    constexpr int64_t n_drafts = 300;
    for (int64_t draft = 1; draft <= n_drafts; ++draft) {
        begin(draft, 0, 5);
        frame(draft, 5);
    }
    EXPECT_EQ(heard.latest[0].sequence, 0);
    EXPECT_EQ(heard.latest[300].sequence, 300);
    frame(0, 10);                            // the first goes on,
    EXPECT_EQ(heard.at_frame.sequence, 301); // which is known before its frame is
    frame(1, 6);                             // and so does a draft,
    begin(1000, 0, 11);                      // and a line branches off where the first went on
    frame(1000, 11);
    recorder.finish();
    ASSERT_EQ(recorder.recorded().size(), 1u);
    EXPECT_EQ(recorder.recorded()[0].problem, "");
    auto recording = Recording::open(recorder.recorded()[0].path);
    ASSERT_TRUE(recording);
    EXPECT_TRUE((*recording)->check());
    const std::vector<Sequence>& sequences = (*recording)->sequences();
    ASSERT_EQ(sequences.size(), size_t(n_drafts) + 4);
    EXPECT_TRUE(sequences[1].ended);
    EXPECT_FALSE(sequences[300].ended && sequences[300].end_reason != "");
    const Sequence &first = sequences[301], &draft = sequences[302], &branch = sequences[303];
    EXPECT_EQ(first.parent, 0);
    EXPECT_EQ(first.n_shared, 10);
    EXPECT_EQ(first.n_frames, 11);
    EXPECT_EQ(draft.parent, 1);
    EXPECT_EQ(draft.n_shared, 6);
    EXPECT_EQ(draft.n_frames, 7);
    EXPECT_EQ(branch.parent, 301);
    EXPECT_EQ(branch.n_shared, 11);
    auto frames = (*recording)->frames(0, 7, 302);
    ASSERT_TRUE(frames);
    EXPECT_EQ((*frames)[4].sequence, 0); // held by the first, ...
    EXPECT_EQ((*frames)[5].sequence, 1); // ... the draft as it was, ...
    EXPECT_EQ((*frames)[6].sequence, 302);
}

// Of more files than may be open one is closed, and opened again where a line of it goes on, or one branches off.
TEST_F(AttachRecorder, AFileThatWasClosedForWantOfRoomGoesOn) {
    begin_stream();
    for (int64_t id = 0; id < 70; ++id) begin(id), frame(id, 0);
    begin(100, 0, 1);
    frame(100, 1);
    EXPECT_EQ(heard.at_frame.path, recorder.recorded()[0].path);
    EXPECT_EQ(heard.at_frame.sequence, 1);
    frame(0, 1); // the first line itself
    EXPECT_EQ(heard.at_frame.path, recorder.recorded()[0].path);
    EXPECT_EQ(heard.at_frame.sequence, 2);
    frame(0, 2);
    for (int64_t id = 69; id >= 0; --id) frame(id, id == 0 ? 3 : 1); // each in turn
    frame(100, 2);
    recorder.finish();
    EXPECT_EQ(problems.size(), 1u); // that tokens have no texts
    ASSERT_EQ(recorder.recorded().size(), 70u);
    for (const Recorded& r : recorder.recorded()) {
        EXPECT_EQ(r.problem, "") << r.path;
        auto recording = Recording::open(r.path);
        ASSERT_TRUE(recording) << recording.error().message;
        EXPECT_TRUE((*recording)->info().complete);
        EXPECT_TRUE((*recording)->check()) << r.path;
    }
    auto first = Recording::open(recorder.recorded()[0].path);
    ASSERT_TRUE(first);
    int64_t longest = 0;
    for (const Sequence& s : (*first)->sequences()) longest = std::max(longest, s.n_frames);
    EXPECT_EQ(longest, 4);
    const SequenceRecorded branch = heard.latest[100];
    EXPECT_EQ((*first)->sequences().at(size_t(branch.sequence)).n_frames, 3);
}

TEST_F(AttachRecorder, AFileThatWasTakenAwayMeanwhileIsSaid) {
    begin_stream();
    for (int64_t id = 0; id < 70; ++id) begin(id), frame(id, 0);
    std::filesystem::remove(recorder.recorded()[0].path);
    frame(0, 1);
    EXPECT_EQ(heard.at_frame.path, "");
    EXPECT_NE(heard.at_frame.why_not.find("does not exist"), std::string::npos) << heard.at_frame.why_not;
    begin(100, 0, 1);
    frame(100, 1);
    EXPECT_NE(heard.latest[100].why_not, "");
    const size_t n_told = heard.told.size();
    frame(0, 2);
    EXPECT_EQ(heard.told.size(), n_told); // said once
    recorder.finish();
    EXPECT_FALSE(std::filesystem::exists(recorder.recorded()[0].path));
    EXPECT_NE(recorder.recorded()[0].problem, "");
    EXPECT_EQ(recorder.recorded()[1].problem, "");
}

TEST_F(AttachRecorder, ALineWhoseBeginningIsInNoFileIsSaidNotToBe) {
    begin_stream();
    begin(3, 2, 5);
    EXPECT_TRUE(was_said("a line branches off one that is not recorded, and is not, either"));
    frame(3, 5);
    recorder.finish();
    EXPECT_TRUE(recorder.recorded().empty());
}

// What makes no sense ends a recording, and nobody else's.
TEST_F(AttachRecorder, NonsenseEndsItsRecordingAlone) {
    frame(0, 0); // before anything
    begin_stream();
    begin(0), begin(1);
    frame(0, 0), frame(1, 0);
    frame(1, 7);
    EXPECT_EQ(heard.latest[1].path, "");
    EXPECT_NE(heard.latest[1].why_not, "");
    frame(0, 1);
    EXPECT_NE(heard.latest[0].path, "");
    begin(0), begin(5, 99, 3), begin(6, 0, -4), begin(7, 0, 1000);
    recorder.take(SequenceEnd{0, 42, "none"});
    recorder.take(SequenceEnd{9, 0, "none"});
    recorder.take(StreamEnd{9, "none"});
    frame(99, 0);
    recorder.finish();
    for (const Recorded& r : recorder.recorded()) {
        auto recording = Recording::open(r.path);
        if (recording) {
            EXPECT_TRUE((*recording)->check()) << r.path;
        }
    }
    EXPECT_NE(recorder.recorded().at(1).problem, "");
}

} // namespace
