// A recording that was closed goes on: what lies there stays, and new sequences share of it.
#include "recording/writer.h"
#include "support/temp_dir.h"
#include "tree.h"

#include <gtest/gtest.h>

#include <filesystem>

using namespace attnscope;
using namespace attnscope::test;

namespace {

// Sequences 0 and 1 (off 0 at 70), 150 and 100 frames; chunks of 64 are full at other places.
void write_two(const std::string& path, const Geometry& geometry) {
    auto writer = RecordingWriter::create(path, make_info());
    ASSERT_TRUE(writer) << writer.error().message;
    ASSERT_TRUE((*writer)->begin(geometry));
    for (int64_t i = 0; i < 150; ++i) ASSERT_TRUE((*writer)->push(make_frame(geometry, {i, 0})));
    Sequence branch;
    branch.id = 1, branch.parent = 0, branch.n_shared = 70;
    ASSERT_TRUE((*writer)->begin_sequence(branch));
    for (int64_t i = 70; i < 100; ++i) ASSERT_TRUE((*writer)->push(make_frame(geometry, {i, 1})));
    (*writer)->token_text(1, "one");
    ASSERT_TRUE((*writer)->close());
}

void expect_frames(Recording& recording, const Geometry& geometry, int64_t sequence,
                   const std::vector<FramePlace>& places) {
    ASSERT_EQ(recording.sequences().at(size_t(sequence)).n_frames, int64_t(places.size()));
    for (size_t i = 0; i < places.size(); ++i) {
        const auto frame = recording.frame({int64_t(i), sequence}, true, true);
        ASSERT_TRUE(frame) << frame.error().message;
        ASSERT_TRUE(same_frame(*frame, make_frame(geometry, places[i]))) << sequence << ", " << i;
    }
    ASSERT_TRUE(recording.rows({int64_t(places.size()) - 1, sequence}));
}

std::vector<FramePlace> places(std::initializer_list<std::pair<int64_t, int64_t>> ends) {
    std::vector<FramePlace> out;
    for (const auto& [sequence, end] : ends) {
        for (auto i = int64_t(out.size()); i < end; ++i) out.emplace_back(i, sequence);
    }
    return out;
}

} // namespace

TEST(WriteAgain, WhatWasThereStaysAndNewSequencesShareOfIt) {
    for (const Geometry& geometry : {uniform_geometry({}), mixed_geometry()}) {
        const TempDir dir;
        const std::string path = dir.file("a.attn");
        write_two(path, geometry);
        const auto before = Recording::open(path);
        ASSERT_TRUE(before);
        const std::string identity = (*before)->info().identity;
        for (int64_t round = 0; round < 2; ++round) { // again and again
            auto writer = recording::write_again(path, {});
            ASSERT_TRUE(writer) << writer.error().message;
            Sequence goes_on, other;
            goes_on.id = 2 + 2 * round, goes_on.parent = round == 0 ? 0 : 2, goes_on.n_shared = round == 0 ? 150 : 160;
            other.id = 3 + 2 * round, other.parent = 1, other.n_shared = 85;
            ASSERT_TRUE((*writer)->begin_sequence(goes_on));
            ASSERT_TRUE((*writer)->begin_sequence(other));
            const int64_t from = goes_on.n_shared;
            for (int64_t i = from; i < from + 10; ++i)
                ASSERT_TRUE((*writer)->push(make_frame(geometry, {i, goes_on.id})));
            for (int64_t i = 85; i < 85 + 70; ++i) ASSERT_TRUE((*writer)->push(make_frame(geometry, {i, other.id})));
            EXPECT_FALSE((*writer)->push(make_frame(geometry, {150, 0}))); // has ended
            (*writer)->token_text(1, "one");
            (*writer)->token_text(2 + int32_t(round), "more");
            EXPECT_FALSE(recording::write_again(path, {})); // it is being written
            ASSERT_TRUE((*writer)->close());
        }
        EXPECT_FALSE(std::filesystem::exists(path + "-wal") && std::filesystem::file_size(path + "-wal") > 0);
        ASSERT_TRUE((*before)->refresh()); // whoever had it open sees it
        EXPECT_EQ((*before)->sequences().size(), 6u);
        const auto after = Recording::open(path);
        ASSERT_TRUE(after) << after.error().message;
        EXPECT_TRUE((*after)->info().complete);
        EXPECT_EQ((*after)->info().identity, identity);
        EXPECT_EQ((*after)->token_text(1), "one");
        EXPECT_EQ((*after)->token_text(3), "more");
        const auto checked = (*after)->check();
        ASSERT_TRUE(checked) << checked.error().message;
        expect_frames(**after, geometry, 0, places({{0, 150}}));
        expect_frames(**after, geometry, 1, places({{0, 70}, {1, 100}}));
        expect_frames(**after, geometry, 2, places({{0, 150}, {2, 160}}));
        expect_frames(**after, geometry, 3, places({{0, 70}, {1, 85}, {3, 155}}));
        expect_frames(**after, geometry, 4, places({{0, 150}, {2, 160}, {4, 170}}));
        expect_frames(**after, geometry, 5, places({{0, 70}, {1, 85}, {5, 155}}));
    }
}

TEST(WriteAgain, WhileItIsWrittenItSaysThatItIsNotWhole) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({});
    write_two(dir.file("a.attn"), geometry);
    {
        auto writer = recording::write_again(dir.file("a.attn"), {});
        ASSERT_TRUE(writer);
        Sequence branch;
        branch.id = 2, branch.parent = 0, branch.n_shared = 150;
        ASSERT_TRUE((*writer)->begin_sequence(branch));
        ASSERT_TRUE((*writer)->push(make_frame(geometry, {150, 2})));
    } // ends without being closed
    const auto recording = Recording::open(dir.file("a.attn"));
    ASSERT_TRUE(recording);
    EXPECT_FALSE((*recording)->info().complete);
    EXPECT_EQ((*recording)->sequences().size(), 3u);
    EXPECT_TRUE((*recording)->check());
    const auto again = recording::write_again(dir.file("a.attn"), {}); // what its end left is not known
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().kind, ErrorKind::unsupported);
    EXPECT_FALSE(recording::write_again(dir.file("none.attn"), {}));
    EXPECT_FALSE(std::filesystem::exists(dir.file("none.attn")));
}
