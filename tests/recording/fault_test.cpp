// A disk that fails at any operation: a sentence for the user, and what was committed stays readable.
#include "fault_vfs.h"
#include "recording/writer.h"
#include "support/temp_dir.h"
#include "synthetic.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/mount.h>

#include <chrono>
#include <filesystem>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr int64_t n_frames = 20;

struct Outcome {
    bool created = false;
    bool closed = false;
    int64_t recorded = 0;
    std::vector<Error> errors;
};

// A short capture, one commit a frame so that the operations come in the same order every time.
Outcome capture(const std::string& path, const Geometry& geometry) {
    Outcome outcome;
    auto writer = recording::create_writer(path, make_info(), {.commit_interval_ms = 0}, recording::Layout{1024, 8});
    if (!writer) {
        outcome.errors.push_back(writer.error());
        return outcome;
    }
    outcome.created = true;
    Result<void> result = (*writer)->begin(geometry);
    for (int64_t i = 0; i < n_frames && result; ++i) {
        Frame frame = make_frame(geometry, i);
        (*writer)->token_text(frame.token, piece_of(frame.token));
        result = (*writer)->push(std::move(frame));
        const auto patience = std::chrono::steady_clock::now() + std::chrono::milliseconds(10);
        while (result && (*writer)->recorded() <= i && std::chrono::steady_clock::now() < patience) {
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    }
    if (!result) outcome.errors.push_back(result.error());
    auto closed = (*writer)->close();
    outcome.closed = closed.ok();
    if (!closed) outcome.errors.push_back(closed.error());
    outcome.recorded = (*writer)->recorded();
    return outcome;
}

void expect_kept(const std::string& path, const Geometry& geometry, const Outcome& outcome) {
    for (const Error& error : outcome.errors) {
        EXPECT_EQ(error.kind, ErrorKind::io) << error.message;
        EXPECT_NE(error.message.find("a.attn"), std::string::npos) << error.message;
    }
    EXPECT_TRUE(outcome.closed || !outcome.errors.empty());
    if (!outcome.created) return;
    auto recording = Recording::open(path);
    ASSERT_TRUE(recording) << recording.error().message;
    const int64_t n = (*recording)->info().n_frames;
    ASSERT_GE(n, outcome.recorded);
    if (outcome.closed) {
        EXPECT_TRUE((*recording)->info().complete);
        EXPECT_EQ(n, n_frames);
    }
    for (int64_t i = 0; i < n; ++i) {
        auto frame = (*recording)->frame(i, true, true);
        ASSERT_TRUE(frame) << frame.error().message;
        ASSERT_TRUE(same_frame(*frame, make_frame(geometry, i)));
    }
    auto checked = (*recording)->check();
    EXPECT_TRUE(checked) << checked.error().message;
}

} // namespace

class Fault : public ::testing::TestWithParam<std::pair<int, bool>> {};

TEST_P(Fault, AtEveryOperationLeavesWhatWasCommitted) {
    const Geometry geometry = uniform_geometry({.n_layer = 2, .n_head = 2, .n_head_kv = 1, .head_dim = 8});
    const auto [code, forever] = GetParam();
    FaultVfs vfs;
    int failures = 0;
    for (int nth = 1;; ++nth) {
        const TempDir dir;
        const std::string path = dir.file("a.attn");
        vfs.fail(nth, code, forever);
        const Outcome outcome = capture(path, geometry);
        const bool reached = vfs.operations() >= nth;
        vfs.fail(0, SQLITE_OK, false);
        ASSERT_NO_FATAL_FAILURE(expect_kept(path, geometry, outcome)) << "operation " << nth;
        if (::testing::Test::HasFailure()) FAIL() << "operation " << nth;
        if (!reached) break;
        failures += !outcome.errors.empty();
        ASSERT_TRUE(nth < 5000);
    }
    std::printf("%d captures ended with an error\n", failures);
    EXPECT_GT(failures, 50);
}

INSTANTIATE_TEST_SUITE_P(Disk, Fault,
                         ::testing::Values(std::pair{SQLITE_FULL, true}, std::pair{SQLITE_FULL, false},
                                           std::pair{SQLITE_IOERR_WRITE, true}, std::pair{SQLITE_IOERR_WRITE, false}));

TEST(FullDisk, IsNamedAndWhatFittedIsKept) {
    const TempDir dir;
    const std::string folder = dir.file("small");
    std::filesystem::create_directory(folder);
    if (mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=2m") != 0) GTEST_SKIP() << "no right to mount a small disk";
    const Geometry geometry = smollm2_geometry();
    const std::string path = folder + "/a.attn";
    {
        auto writer = RecordingWriter::create(path, make_info(), {.commit_interval_ms = 1});
        ASSERT_TRUE(writer) << writer.error().message;
        Result<void> result = (*writer)->begin(geometry);
        for (int64_t i = 0; i < 1000 && result; ++i) {
            result = (*writer)->push(make_frame(geometry, i));
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        EXPECT_FALSE(result);
        EXPECT_EQ(result.error().kind, ErrorKind::io);
        EXPECT_NE(result.error().message.find("full"), std::string::npos) << result.error().message;
        EXPECT_FALSE((*writer)->close());
        EXPECT_GT((*writer)->recorded(), 0);
        auto recording = Recording::open(path);
        ASSERT_TRUE(recording) << recording.error().message;
        EXPECT_GE((*recording)->info().n_frames, (*writer)->recorded());
        EXPECT_TRUE((*recording)->check());
    }
    umount2(folder.c_str(), MNT_DETACH);
}
