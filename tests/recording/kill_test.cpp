// A process that dies at any moment loses nothing that it was told is committed.
#include "support/temp_dir.h"
#include "synthetic.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>

using namespace attnscope;
using namespace attnscope::test;

namespace {

// Writes until it is killed; every commit's number goes into the pipe.
[[noreturn]] void write_forever(const std::string& path, const Geometry& geometry, int pipe, int pace_us) {
    auto writer = RecordingWriter::create(path, make_info(), {.commit_interval_ms = 3, .commit_bytes = 1 << 20});
    if (!writer) _exit(2);
    (*writer)->on_commit([pipe](int64_t n) {
        if (write(pipe, &n, sizeof n) != ssize_t(sizeof n)) _exit(3);
    });
    if (!(*writer)->begin(geometry)) _exit(4);
    for (int64_t i = 0;; ++i) {
        Frame frame = make_frame(geometry, i);
        (*writer)->token_text(frame.token, piece_of(frame.token));
        if (!(*writer)->push(std::move(frame))) _exit(5);
        if (pace_us > 0) usleep(useconds_t(pace_us));
    }
}

} // namespace

TEST(Kill, EveryCommittedFrameSurvives) {
    const char* wanted = std::getenv("ATTNSCOPE_KILLS");
    const int kills = wanted ? std::atoi(wanted) : 20;
    std::mt19937 random(wanted ? std::random_device()() : 1);
    const Geometry small = mixed_geometry();
    const Geometry large = smollm2_geometry();
    int64_t frames = 0;
    int with_frames = 0;
    for (int round = 0; round < kills; ++round) {
        const TempDir dir;
        const std::string path = dir.file("a.attn");
        const Geometry& geometry = round % 4 == 3 ? large : small;
        int ends[2];
        ASSERT_EQ(pipe(ends), 0);
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            close(ends[0]);
            write_forever(path, geometry, ends[1], round % 2 == 0 ? 300 : 0);
        }
        close(ends[1]);
        pollfd promise{ends[0], POLLIN, 0};
        if (round % 2 == 1) poll(&promise, 1, 10000); // however busy the machine is, some have begun
        usleep(useconds_t(random() % 200000));
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself with " << WEXITSTATUS(status);
        int64_t promised = 0;
        for (int64_t n = 0; read(ends[0], &n, sizeof n) == ssize_t(sizeof n);) promised = n;
        close(ends[0]);

        if (promised == 0 && !std::filesystem::exists(path)) continue;
        auto recording = Recording::open(path);
        if (!recording) {
            // killed before create() returned: a file without its tables
            ASSERT_EQ(promised, 0) << recording.error().message;
            ASSERT_EQ(recording.error().kind, ErrorKind::not_ours) << recording.error().message;
            continue;
        }
        EXPECT_FALSE((*recording)->info().complete);
        const int64_t n = (*recording)->info().n_frames;
        ASSERT_GE(n, promised);
        for (int64_t i = 0; i < n; ++i) {
            auto frame = (*recording)->frame(i, true, true);
            ASSERT_TRUE(frame) << frame.error().message;
            ASSERT_TRUE(same_frame(*frame, make_frame(geometry, i)));
        }
        auto checked = (*recording)->check();
        ASSERT_TRUE(checked) << checked.error().message;
        frames += n;
        with_frames += n > 0;
    }
    std::printf("%d kills, %d with frames, %lld frames, none lost or changed\n", kills, with_frames,
                static_cast<long long>(frames));
    EXPECT_GT(with_frames, kills / 5);
}
