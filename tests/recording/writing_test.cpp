// What the writer promises while it writes.
#include "support/temp_dir.h"
#include "synthetic.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

std::unique_ptr<RecordingWriter> must_create(const std::string& path, WriterOptions options = {}) {
    auto writer = RecordingWriter::create(path, make_info(), options);
    EXPECT_TRUE(writer) << writer.error().message;
    return writer ? std::move(*writer) : nullptr;
}

std::unique_ptr<Recording> must_open(const std::string& path) {
    auto recording = Recording::open(path);
    EXPECT_TRUE(recording) << recording.error().message;
    return recording ? std::move(*recording) : nullptr;
}

void wait_for(const std::function<bool()>& condition) {
    for (int i = 0; i < 2000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(condition());
}

// Sanitizers keep freed memory for a while, and say so in two dialects.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif
#else
constexpr bool sanitized = false;
#endif

size_t resident_bytes() {
    std::ifstream statm("/proc/self/statm");
    size_t size = 0;
    size_t resident = 0;
    statm >> size >> resident;
    return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// Runs `body` in a child without root's powers; true when it returned true.
bool as_nobody(const std::function<bool()>& body) {
    const pid_t child = fork();
    if (child == 0) {
        const bool dropped = getuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0);
        _exit(dropped && body() ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

} // namespace

TEST(Writing, CommittedFramesCanBeReadMeanwhile) {
    const TempDir dir;
    const std::string path = dir.file("live.attn");
    const Geometry geometry = mixed_geometry();
    auto writer = must_create(path, {.commit_interval_ms = 1});
    ASSERT_TRUE(writer);
    auto early = must_open(path); // before the geometry is known
    ASSERT_TRUE(early);
    EXPECT_TRUE(early->info().geometry.layers.empty());
    EXPECT_FALSE(early->info().complete);
    std::atomic<int64_t> committed = 0;
    writer->on_commit([&](int64_t n) { committed = n; });
    auto began = writer->begin(geometry);
    ASSERT_TRUE(began) << began.error().message;
    ASSERT_TRUE(writer->begin(geometry)); // the same again is no error

    const int64_t n = 400;
    std::thread producer([&] {
        for (int64_t i = 0; i < n; ++i) {
            Frame frame = make_frame(geometry, i);
            writer->token_text(frame.token, piece_of(frame.token));
            if (!writer->push(std::move(frame))) return;
            if (i % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    int64_t seen = 0;
    while (seen < n) {
        const int64_t promised = writer->recorded();
        auto refreshed = early->refresh();
        ASSERT_TRUE(refreshed) << refreshed.error().message;
        ASSERT_GE(early->info().n_frames, promised);
        for (int64_t i = std::max<int64_t>(0, seen - 3); i < early->info().n_frames; ++i) {
            auto frame = early->frame(i, true, true);
            ASSERT_TRUE(frame) << frame.error().message;
            ASSERT_TRUE(same_frame(*frame, make_frame(geometry, i)));
        }
        if (early->info().n_frames > seen && early->info().n_frames > 20) {
            auto rows = early->rows(early->info().n_frames - 1);
            ASSERT_TRUE(rows) << rows.error().message;
        }
        seen = early->info().n_frames;
    }
    producer.join();
    auto checked = early->check();
    EXPECT_TRUE(checked) << checked.error().message;
    auto closed = writer->close();
    ASSERT_TRUE(closed) << closed.error().message;
    EXPECT_EQ(committed, n);
    EXPECT_EQ(writer->recorded(), n);
    ASSERT_TRUE(early->refresh());
    EXPECT_TRUE(early->info().complete);
    ASSERT_TRUE(early->rows(n - 1));
    early.reset();
    // the -wal of a file that somebody was reading may stay, but nothing is in it
    EXPECT_TRUE(!fs::exists(path + "-wal") || fs::file_size(path + "-wal") == 0);
    auto again = must_open(path);
    ASSERT_TRUE(again);
    EXPECT_TRUE(again->check());
}

TEST(Writing, WithoutCloseEverythingPushedIsThereAndTheFileIsIncomplete) {
    const TempDir dir;
    const std::string path = dir.file("a.attn");
    const Geometry geometry = uniform_geometry({});
    {
        auto writer = must_create(path);
        ASSERT_TRUE(writer->begin(geometry));
        for (int64_t i = 0; i < 77; ++i) ASSERT_TRUE(writer->push(make_frame(geometry, i)));
    }
    auto recording = must_open(path);
    ASSERT_TRUE(recording);
    EXPECT_FALSE(recording->info().complete);
    ASSERT_EQ(recording->info().n_frames, 77);
    for (int64_t i = 0; i < 77; ++i) EXPECT_TRUE(same_frame(*recording->frame(i, true, true), make_frame(geometry, i)));
    EXPECT_TRUE(recording->check());
}

TEST(Writing, WithoutGeometryTheFileIsEmptyButValid) {
    const TempDir dir;
    {
        auto writer = must_create(dir.file("a.attn"));
        writer->token_text(3, "x");
        Frame frame;
        EXPECT_FALSE(writer->push(std::move(frame)));
        EXPECT_TRUE(writer->close());
        EXPECT_TRUE(writer->close()); // once more is no error
    }
    auto recording = must_open(dir.file("a.attn"));
    ASSERT_TRUE(recording);
    EXPECT_TRUE(recording->info().complete);
    EXPECT_EQ(recording->token_text(3), "x");
    EXPECT_FALSE(recording->frame(0));
    EXPECT_FALSE(recording->rows(0));
    EXPECT_TRUE(recording->frames(0, 0));
    EXPECT_TRUE(recording->check());
    { auto unused = must_create(dir.file("b.attn")); }
    EXPECT_FALSE(must_open(dir.file("b.attn"))->info().complete);
}

TEST(Writing, RefusesWhatCouldNotBeReadBack) {
    const TempDir dir;
    auto writer = must_create(dir.file("a.attn"));
    Geometry geometry = uniform_geometry({});
    const auto refused = [&](auto change) {
        Geometry bad = geometry;
        change(bad);
        auto r = writer->begin(bad);
        return !r && r.error().kind == ErrorKind::invalid_argument;
    };
    EXPECT_TRUE(refused([](Geometry& g) { g.layers.clear(); }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].n_head = 3; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].n_head_kv = 0; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].head_dim = -32; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].head_dim = 1 << 30; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].k_layer = 2; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].k_layer = 1, g.layers[1].k_layer = 0; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].k_type = static_cast<DType>(99); }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].mask_group = 1; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].sinks = {1.0f}; }));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[1].k_layer = 0, g.layers[1].n_head_kv = 1; }));
    ASSERT_TRUE(writer->begin(geometry));
    EXPECT_TRUE(refused([](Geometry& g) { g.layers[0].scale = 2.0f; })); // another geometry than the first

    const auto refuses = [&](auto change) {
        Frame frame = make_frame(geometry, 0);
        change(frame);
        auto r = writer->push(std::move(frame));
        return !r && r.error().kind == ErrorKind::invalid_argument && !r.error().message.empty();
    };
    EXPECT_TRUE(refuses([](Frame& f) { f.index = 1; }));
    EXPECT_TRUE(refuses([](Frame& f) { f.q.pop_back(); }));
    EXPECT_TRUE(refuses([](Frame& f) { f.k.clear(); }));
    EXPECT_TRUE(refuses([](Frame& f) { f.visible.clear(); }));
    EXPECT_TRUE(refuses([](Frame& f) { f.visible[0] = {{3, 3}}; }));
    EXPECT_TRUE(refuses([](Frame& f) { f.visible[0] = {{0, 3}, {3, 4}}; }));
    EXPECT_TRUE(refuses([](Frame& f) { f.visible[0] = {{-1, 3}}; }));
    EXPECT_TRUE(refuses([](Frame& f) { f.visible[0] = {{0, INT64_MAX}}; }));
    EXPECT_TRUE(refuses([](Frame& f) { f.witnesses = {{9, 0, 0, 0, 0, 0}}; }));
    EXPECT_TRUE(refuses([](Frame& f) { f.witnesses = {{0, -1, 0, 0, 0, 0}}; }));
    EXPECT_TRUE(refuses([](Frame& f) { f.kind = static_cast<FrameKind>(2); }));
    ASSERT_TRUE(writer->push(make_frame(geometry, 0)));
    EXPECT_TRUE(refuses([](Frame&) {})); // 0 again
    ASSERT_TRUE(writer->push(make_frame(geometry, 1)));
    ASSERT_TRUE(writer->close());
    EXPECT_FALSE(writer->push(make_frame(geometry, 2)));
    EXPECT_EQ(must_open(dir.file("a.attn"))->info().n_frames, 2);

    RecordingInfo info = make_info();
    info.settings_json = "[1]";
    EXPECT_FALSE(RecordingWriter::create(dir.file("b.attn"), info));
    EXPECT_FALSE(RecordingWriter::create("", make_info()));
}

TEST(Writing, AnExistingFileIsKeptUnlessToldOtherwise) {
    const TempDir dir;
    const std::string path = dir.file("a.attn");
    std::ofstream(path) << "precious";
    auto refused = RecordingWriter::create(path, make_info());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, ErrorKind::invalid_argument);
    EXPECT_EQ(fs::file_size(path), 8u);
    write_recording(path, uniform_geometry({}), 3, {.overwrite = true});
    EXPECT_EQ(must_open(path)->info().n_frames, 3);
    // the log of a recording that was moved away holds frames
    std::ofstream(dir.file("b.attn-wal")) << "precious";
    EXPECT_FALSE(RecordingWriter::create(dir.file("b.attn"), make_info()));
    EXPECT_FALSE(RecordingWriter::create(dir.path().string(), make_info(), {.overwrite = true}));
    // a pipe, or a device, is no file to be replaced
    ASSERT_EQ(mkfifo(dir.file("pipe").c_str(), 0600), 0);
    auto pipe = RecordingWriter::create(dir.file("pipe"), make_info(), {.overwrite = true});
    ASSERT_FALSE(pipe);
    EXPECT_NE(pipe.error().message.find("only a regular file"), std::string::npos) << pipe.error().message;
    EXPECT_TRUE(fs::is_fifo(dir.file("pipe")));
    auto nowhere = RecordingWriter::create(dir.file("no/such/folder.attn"), make_info());
    ASSERT_FALSE(nowhere);
    EXPECT_EQ(nowhere.error().kind, ErrorKind::io);
    EXPECT_NE(nowhere.error().message.find("folder.attn"), std::string::npos);
}

TEST(Writing, NamesThatMeanSomethingToSqliteAreFileNames) {
    const TempDir dir;
    const fs::path before = fs::current_path();
    fs::current_path(dir.path());
    for (const char* name : {":memory:", "file:x?mode=ro", "a b%20\xc3\xa4.attn"}) {
        write_recording(name, uniform_geometry({}), 2);
        EXPECT_TRUE(fs::exists(name)) << name;
        EXPECT_TRUE(must_open(name)) << name;
    }
    fs::current_path(before);
}

TEST(Writing, ADeletedFileIsNoticed) {
    const TempDir dir;
    const std::string path = dir.file("a.attn");
    const Geometry geometry = uniform_geometry({});
    auto writer = must_create(path, {.commit_interval_ms = 0});
    ASSERT_TRUE(writer->begin(geometry));
    ASSERT_TRUE(writer->push(make_frame(geometry, 0)));
    wait_for([&] { return writer->recorded() == 1; });
    fs::remove(path);
    Result<void> pushed;
    for (int64_t i = 1; i < 1000 && pushed; ++i) {
        pushed = writer->push(make_frame(geometry, i));
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_FALSE(pushed);
    EXPECT_EQ(pushed.error().kind, ErrorKind::io);
    EXPECT_NE(pushed.error().message.find("deleted"), std::string::npos) << pushed.error().message;
    EXPECT_FALSE(writer->close());
}

TEST(Writing, AFullQueueWaitsAndMemoryStaysBounded) {
    const TempDir dir;
    const Geometry geometry = smollm2_geometry();
    auto writer = must_create(dir.file("a.attn"), {.queue_bytes = 1 << 20});
    ASSERT_TRUE(writer->begin(geometry));
    int64_t i = 0;
    for (; i < 400; ++i) ASSERT_TRUE(writer->push(make_frame(geometry, i)));
    const size_t before = resident_bytes();
    for (; i < 2000; ++i) ASSERT_TRUE(writer->push(make_frame(geometry, i)));
    if (!sanitized) {
        EXPECT_LT(resident_bytes(), before + (size_t(8) << 20)); // 70 MB went through meanwhile
    }
    ASSERT_TRUE(writer->close());
}

// What bench charges to capturing: the thread's own time, complete once everything is on disk.
TEST(Writing, TellsWhatItsThreadTook) {
    const TempDir dir;
    const Geometry geometry = smollm2_geometry();
    auto writer = must_create(dir.file("a.attn"));
    EXPECT_EQ(writer->cpu_seconds(), 0);
    ASSERT_TRUE(writer->begin(geometry));
    constexpr int64_t n = 300;
    for (int64_t i = 0; i < n; ++i) ASSERT_TRUE(writer->push(make_frame(geometry, i)));
    wait_for([&] { return writer->recorded() == n; });
    const double committed = writer->cpu_seconds();
    EXPECT_GT(committed, 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_LT(writer->cpu_seconds() - committed, 0.015) << "waiting is no work";
    ASSERT_TRUE(writer->close());
    EXPECT_GT(writer->cpu_seconds(), committed) << "closing is work";
    timespec all{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &all);
    EXPECT_LT(writer->cpu_seconds(), double(all.tv_sec) + 1e-9 * double(all.tv_nsec));
}

TEST(Writing, OneFrameLargerThanTheQueueStillFits) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({.n_head = 64, .head_dim = 128});
    write_recording(dir.file("a.attn"), geometry, 30, {.queue_bytes = 16, .commit_bytes = 1});
    EXPECT_TRUE(must_open(dir.file("a.attn"))->check());
}

TEST(Writing, AThrowingCallbackBecomesAnError) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({});
    auto writer = must_create(dir.file("a.attn"), {.commit_interval_ms = 0});
    writer->on_commit([](int64_t) { throw std::runtime_error("no"); });
    ASSERT_TRUE(writer->begin(geometry));
    (void)writer->push(make_frame(geometry, 0));
    auto closed = writer->close();
    ASSERT_FALSE(closed);
    EXPECT_EQ(must_open(dir.file("a.attn"))->info().n_frames, 1);
}

TEST(Writing, ALogOfAnotherRecordingOfTheSameSecondIsNotRead) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({});
    const auto begin = [&](const std::string& path, int64_t n) {
        RecordingInfo info = make_info();
        info.created = "2026-11-27T10:00:00Z";
        auto writer = RecordingWriter::create(path, info, {.commit_interval_ms = 0});
        EXPECT_TRUE(writer && (*writer)->begin(geometry));
        for (int64_t i = 0; i < n; ++i) EXPECT_TRUE((*writer)->push(make_frame(geometry, i)));
        wait_for([&] { return (*writer)->recorded() == n; });
        return std::move(*writer);
    };
    const std::string one = dir.file("one.attn"), other = dir.file("other.attn"), mixed = dir.file("mixed.attn");
    const auto first = begin(one, 10), second = begin(other, 20);
    fs::copy_file(one, mixed);
    fs::copy_file(other + "-wal", mixed + "-wal");
    const auto recording = Recording::open(mixed);
    ASSERT_TRUE(recording) << recording.error().message;
    EXPECT_LE((*recording)->info().n_frames, 10);
    EXPECT_NE((*recording)->info().notice.find("was not left by this recording"), std::string::npos)
        << (*recording)->info().notice;
}

TEST(Writing, AFolderThatCannotBeWrittenIsNamed) {
    const TempDir dir;
    fs::permissions(dir.path(), fs::perms(0555));
    EXPECT_TRUE(as_nobody([&] {
        auto writer = RecordingWriter::create(dir.file("a.attn"), make_info());
        return !writer && writer.error().kind == ErrorKind::io &&
               writer.error().message.find("a.attn") != std::string::npos;
    }));
    fs::permissions(dir.path(), fs::perms(0755));
}

TEST(Writing, AnUnfinishedFileCanBeReadInAFolderThatCannotBeWritten) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({});
    const std::string live = dir.file("live.attn");
    auto writer = must_create(live, {.commit_interval_ms = 0});
    ASSERT_TRUE(writer->begin(geometry));
    for (int64_t i = 0; i < 10; ++i) ASSERT_TRUE(writer->push(make_frame(geometry, i)));
    wait_for([&] { return writer->recorded() == 10; });
    const std::string path = dir.file("dead/copy.attn"); // what a crash would have left, and somebody else's
    fs::create_directory(dir.file("dead"));
    fs::copy_file(live, path);
    fs::copy_file(live + "-wal", path + "-wal");
    fs::permissions(dir.path(), fs::perms(0755));
    for (const char* suffix : {"", "-wal"}) fs::permissions(path + suffix, fs::perms(0444));
    fs::permissions(dir.file("dead"), fs::perms(0555));
    EXPECT_TRUE(as_nobody([&] {
        auto recording = Recording::open(path);
        return recording && (*recording)->info().n_frames == 10 && (*recording)->info().notice.empty() &&
               (*recording)->check() && (*recording)->frame(9, true, true);
    }));
    fs::permissions(dir.file("dead"), fs::perms(0755));
    fs::remove(path + "-wal");
    fs::permissions(dir.file("dead"), fs::perms(0555));
    EXPECT_TRUE(as_nobody([&] { // only the file itself was kept
        auto recording = Recording::open(path);
        return recording && (*recording)->info().n_frames == 0 && (*recording)->check();
    }));
    fs::permissions(dir.file("dead"), fs::perms(0755));
}
