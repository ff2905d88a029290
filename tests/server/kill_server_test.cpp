// A server that is killed while it records leaves recordings that open.
#include "served_model.h"
#include "support/temp_dir.h"

#include <attnscope/verify.h>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

using namespace attnscope;
using namespace attnscope::test;

TEST(KilledServer, LeavesRecordingsThatOpen) {
    TempDir dir;
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const std::string folder = dir.path().string();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        execl(ATTNSCOPE_BIN, ATTNSCOPE_BIN, "serve", "--in-process", "-m", "smollm2", "-c", "1024", "-t", "1", "--port",
              "0", "--record", folder.c_str(), nullptr);
        _exit(127);
    }
    close(ends[1]);
    FILE* said = fdopen(ends[0], "r");
    int port = 0;
    ASSERT_EQ(std::fscanf(said, "listening on http://127.0.0.1:%d", &port), 1);
    httplib::Client client("127.0.0.1", port);
    client.set_read_timeout(60);
    // Killed by the client in the middle of the stream, after 30 tokens.
    int n = 0;
    httplib::Request request;
    request.method = "POST";
    request.path = "/api/extra/generate/stream";
    request.body =
        Json({{"prompt", long_text(10)}, {"max_length", 700}, {"ban_eos_token", true}, {"record", true}}).dump();
    request.content_receiver = [&](const char*, size_t, size_t, size_t) {
        if (++n == 30) kill(child, SIGKILL);
        return true;
    };
    client.send(request);
    EXPECT_GE(n, 30);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status));
    std::fclose(said);
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
        if (entry.path().extension() != ".attn") continue;
        ++files;
        auto recording = Recording::open(entry.path().string());
        ASSERT_TRUE(recording) << recording.error().message;
        EXPECT_FALSE((*recording)->info().complete);
        EXPECT_GT((*recording)->info().n_frames, 100);
        const auto report = verify_recording(**recording);
        ASSERT_TRUE(report) << report.error().message;
        EXPECT_EQ(report->n_ok, report->n_frames);
        EXPECT_EQ(report->damage, "");
    }
    EXPECT_EQ(files, 1);
}
