// A log that grows in large steps is a log, and what was there before they were is as long as it was.
#include "recording/writer.h"
#include "support/temp_dir.h"
#include "synthetic.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

constexpr uintmax_t step = 65536;

class LargeSteps : public testing::Test {
protected:
    // Of a writer that has committed so many frames, a commit each.
    std::unique_ptr<RecordingWriter> grown(int64_t n) {
        auto writer =
            RecordingWriter::create(path, make_info(), WriterOptions{.commit_interval_ms = 0, .overwrite = true});
        if (!writer || !(*writer)->begin(geometry)) return nullptr;
        for (int64_t i = 0; i < n; ++i) {
            if (!(*writer)->push(make_frame(geometry, i))) return nullptr;
            const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
            while ((*writer)->recorded() <= i && std::chrono::steady_clock::now() < until)
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return (*writer)->recorded() == n ? std::move(*writer) : nullptr;
    }
    uintmax_t log_bytes() const { return fs::file_size(path + "-wal"); }
    void expect_whole(int64_t n) const {
        auto recording = Recording::open(path);
        ASSERT_TRUE(recording) << recording.error().message;
        ASSERT_EQ((*recording)->info().n_frames, n);
        for (int64_t i = 0; i < n; ++i) {
            auto frame = (*recording)->frame(i, true, true);
            ASSERT_TRUE(frame) << frame.error().message;
            EXPECT_TRUE(same_frame(*frame, make_frame(geometry, i))) << i;
        }
        auto checked = (*recording)->check();
        EXPECT_TRUE(checked) << checked.error().message;
    }

    const TempDir dir;
    const std::string path = dir.file("a.attn");
    const Geometry geometry = smollm2_geometry();
};

TEST_F(LargeSteps, ALogIsLongerThanWhatItHoldsAndIsRead) {
    auto writer = grown(1);
    ASSERT_TRUE(writer);
    const uintmax_t first = log_bytes();
    EXPECT_GE(first, 4 * step); // of 46 KB
    ASSERT_TRUE(writer->push(make_frame(geometry, 1)));
    while (writer->recorded() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(log_bytes(), first); // it had room
    expect_whole(2);
    writer.reset();
    expect_whole(2);
}

TEST_F(LargeSteps, AClosedFileIsAsLongAsItsPages) {
    auto writer = grown(30);
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->close());
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READONLY, nullptr), SQLITE_OK);
    uintmax_t bytes = 1;
    for (const char* sql : {"PRAGMA page_size", "PRAGMA page_count"}) {
        sqlite3_stmt* statement = nullptr;
        ASSERT_EQ(sqlite3_prepare_v2(db, sql, -1, &statement, nullptr), SQLITE_OK);
        ASSERT_EQ(sqlite3_step(statement), SQLITE_ROW);
        bytes *= static_cast<uintmax_t>(sqlite3_column_int64(statement, 0));
        sqlite3_finalize(statement);
    }
    sqlite3_close(db);
    EXPECT_EQ(fs::file_size(path), bytes);
    expect_whole(30);
}

// What ends a program that writes beyond it is not reached sooner than without them.
TEST_F(LargeSteps, AreNoneWhereFilesHaveALimit) {
    const pid_t child = fork();
    if (child == 0) {
        const rlimit limit{64 << 20, 64 << 20};
        setrlimit(RLIMIT_FSIZE, &limit);
        auto writer = grown(1);
        _exit(!writer ? 2 : log_bytes() < 2 * step ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 0) << (WIFEXITED(status) ? "the log is longer" : "a signal");
}

} // namespace
