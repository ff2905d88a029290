// Names that others use at the same time, logs that are another file's, and files that are not ours.
#include "recording/name_claim.h"
#include "support/temp_dir.h"
#include "synthetic.h"

#include <attnscope/verify.h>

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>

#include <sys/stat.h>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

std::unique_ptr<RecordingWriter> writing(const std::string& path, int64_t n, uint64_t seed) {
    WriterOptions options;
    options.overwrite = true;
    options.commit_interval_ms = 1;
    auto writer = RecordingWriter::create(path, make_info(), options);
    EXPECT_TRUE(writer) << (writer ? "" : writer.error().message);
    if (!writer) return nullptr;
    EXPECT_TRUE((*writer)->begin(uniform_geometry({})));
    for (int64_t i = 0; i < n; ++i) {
        EXPECT_TRUE((*writer)->push(make_frame(uniform_geometry({}), i, seed)));
        if ((i + 1) % 5 != 0 && i + 1 < n) continue; // every fifth frame ends a transaction
        for (int wait = 0; wait < 2000 && (*writer)->recorded() <= i; ++wait)
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    EXPECT_EQ((*writer)->recorded(), n);
    return std::move(*writer);
}

void expect_frames(const std::string& path, int64_t n, uint64_t seed) {
    auto recording = Recording::open(path);
    ASSERT_TRUE(recording) << recording.error().message;
    ASSERT_EQ((*recording)->info().n_frames, n);
    for (int64_t i = 0; i < n; ++i) {
        auto frame = (*recording)->frame(i, true);
        ASSERT_TRUE(frame) << frame.error().message;
        EXPECT_EQ(frame->q, make_frame(uniform_geometry({}), i, seed).q) << i;
    }
}

std::map<std::string, std::string> contents(const std::string& folder) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(folder)) {
        std::ifstream in(entry.path(), std::ios::binary);
        files[entry.path().filename().string()] = {std::istreambuf_iterator<char>(in), {}};
    }
    return files;
}

void sql(sqlite3* db, const std::string& text) {
    ASSERT_EQ(sqlite3_exec(db, text.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
}

} // namespace

TEST(Names, OneOfTwoWritersWinsAndTheOtherSaysSo) {
    TempDir dir;
    const std::string path = dir.file("x.attn");
    WriterOptions force;
    force.overwrite = true;
    auto first = writing(path, 30, 1);
    auto second = RecordingWriter::create(path, make_info(), force);
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().message.find("another capture is writing it"), std::string::npos)
        << second.error().message;
    ASSERT_TRUE(first->push(make_frame(uniform_geometry({}), 30, 1)));
    ASSERT_TRUE(first->close());
    first.reset();
    expect_frames(path, 31, 1);
    // the name is free again
    auto third = writing(path, 5, 2);
    ASSERT_TRUE(third->close());
    third.reset();
    expect_frames(path, 5, 2);
}

// The log of whoever has just begun is not one that was left behind.
TEST(Names, WhoComesSecondRemovesNoLogOfTheFirst) {
    TempDir dir;
    const std::string path = dir.file("x.attn"), log = path + "-wal";
    std::atomic<int> n_taken{0}, n_lost{0};
    const auto writer = [&] {
        const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(3);
        while (n_taken < 100 && std::chrono::steady_clock::now() < until) {
            auto claim = recording::NameClaim::take(path, true);
            if (!claim) continue;
            ++n_taken;
            { std::ofstream out(log); }
            for (int i = 0; i < 20; ++i) std::this_thread::yield();
            n_lost += !fs::exists(log);
            fs::remove(log);
            fs::remove(path); // the name is free for a moment, with nothing there
        }
    };
    std::thread one(writer), other(writer);
    one.join();
    other.join();
    EXPECT_GT(n_taken, 0);
    EXPECT_EQ(n_lost, 0) << "of " << n_taken;
}

TEST(Names, NothingButARegularFileIsReplaced) {
    TempDir dir;
    WriterOptions force;
    force.overwrite = true;
    const std::string pipe = dir.file("pipe.attn"), link = dir.file("link.attn"), folder = dir.file("folder.attn");
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    fs::create_symlink("/dev/null", link);
    fs::create_directory(folder);
    for (const std::string& path : {pipe, link, folder}) {
        auto writer = RecordingWriter::create(path, make_info(), force);
        ASSERT_FALSE(writer) << path;
        EXPECT_NE(writer.error().message.find("only a regular file is replaced"), std::string::npos)
            << writer.error().message;
    }
    EXPECT_TRUE(fs::is_fifo(pipe));
    EXPECT_TRUE(fs::is_symlink(link));
    EXPECT_TRUE(fs::is_directory(folder));
    // nor is a log's name
    ASSERT_EQ(mkfifo(dir.file("y.attn-wal").c_str(), 0600), 0);
    EXPECT_FALSE(RecordingWriter::create(dir.file("y.attn"), make_info(), force));
    EXPECT_TRUE(fs::is_fifo(dir.file("y.attn-wal")));
}

// A file that is moved over the name of a running capture finds that capture's log beside it.
TEST(Logs, ALogOfAnotherRecordingIsNotApplied) {
    TempDir dir;
    const std::string running = dir.file("running.attn"), complete = dir.file("complete.attn");
    write_recording(complete, uniform_geometry({}), 40);
    auto writer = writing(running, 25, 2);
    fs::rename(complete, running);
    ASSERT_TRUE(fs::exists(running + "-wal"));
    expect_frames(running, 40, 1);
    auto recording = Recording::open(running);
    ASSERT_TRUE(recording) << recording.error().message;
    EXPECT_EQ((*recording)->info().complete, true);
    auto verified = verify_recording(**recording);
    EXPECT_TRUE(verified);
    EXPECT_FALSE(writer->push(make_frame(uniform_geometry({}), 25, 2)) && writer->close())
        << "its file is gone, and it says so";
}

TEST(Logs, ALogOfAnotherUnfinishedRecordingIsNotApplied) {
    TempDir dir;
    const std::string path = dir.file("x.attn"), other = dir.file("other.attn");
    auto info = make_info();
    info.created = "2026-01-01T00:00:00Z";
    {
        WriterOptions options;
        options.commit_interval_ms = 1;
        auto writer = RecordingWriter::create(other, info, options);
        ASSERT_TRUE(writer);
        ASSERT_TRUE((*writer)->begin(uniform_geometry({})));
        for (int64_t i = 0; i < 20; ++i) ASSERT_TRUE((*writer)->push(make_frame(uniform_geometry({}), i, 3)));
    } // ends without close(): incomplete, its log folded in
    auto writer = writing(path, 25, 2);
    fs::copy_file(path + "-wal", dir.file("kept-wal"));
    fs::rename(other, path);
    auto recording = Recording::open(path);
    ASSERT_TRUE(recording) << recording.error().message;
    EXPECT_EQ((*recording)->info().created, "2026-01-01T00:00:00Z");
    for (int64_t i = 0; i < (*recording)->info().n_frames; ++i) {
        auto frame = (*recording)->frame(i, true);
        ASSERT_TRUE(frame);
        EXPECT_EQ(frame->q, make_frame(uniform_geometry({}), i, 3).q);
    }
}

TEST(Logs, ALogThatIsCutWhileItIsWrittenIsToldAndWhatIsLeftIsKept) {
    TempDir dir;
    const std::string path = dir.file("x.attn");
    auto writer = writing(path, 60, 4);
    const auto size = fs::file_size(path + "-wal");
    fs::resize_file(path + "-wal", size * 2 / 3);
    Result<void> said;
    for (int64_t i = 60; i < 90 && said; ++i) {
        said = writer->push(make_frame(uniform_geometry({}), i, 4));
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    if (said) said = writer->close();
    ASSERT_FALSE(said);
    EXPECT_NE(said.error().message.find("was cut while being written"), std::string::npos) << said.error().message;
    writer.reset();
    auto recording = Recording::open(path);
    ASSERT_TRUE(recording) << recording.error().message;
    EXPECT_FALSE((*recording)->info().complete);
    EXPECT_LE((*recording)->info().n_frames, 60);
    EXPECT_GT((*recording)->info().n_frames, 0);
    for (int64_t i = 0; i < (*recording)->info().n_frames; ++i) {
        auto frame = (*recording)->frame(i, true);
        ASSERT_TRUE(frame) << frame.error().message;
        EXPECT_EQ(frame->q, make_frame(uniform_geometry({}), i, 4).q);
    }
}

// Another program's file, left by a crash in the middle of a transaction: looking at it changes nothing.
TEST(Strangers, AreNotChangedByLookingAtThem) {
    TempDir dir, look;
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(dir.file("other.db").c_str(), &db), SQLITE_OK);
    sql(db, "create table t(a); insert into t values(1); pragma cache_size=2; begin");
    for (int i = 0; i < 200; ++i) sql(db, "insert into t values(randomblob(5000))");
    fs::copy_file(dir.file("other.db"), look.file("hot.db"));
    fs::copy_file(dir.file("other.db-journal"), look.file("hot.db-journal"));
    sql(db, "commit; pragma journal_mode=wal; insert into t values(2)");
    fs::copy_file(dir.file("other.db"), look.file("wal.attn"));
    fs::copy_file(dir.file("other.db-wal"), look.file("wal.attn-wal"));
    sqlite3_close(db);
    const auto before = contents(look.path().string());
    ASSERT_EQ(before.size(), 4u);
    for (const char* name : {"hot.db", "wal.attn"}) {
        auto recording = Recording::open(look.file(name));
        ASSERT_FALSE(recording) << name;
        EXPECT_EQ(recording.error().kind, ErrorKind::not_ours) << recording.error().message;
    }
    EXPECT_TRUE(contents(look.path().string()) == before);
}
