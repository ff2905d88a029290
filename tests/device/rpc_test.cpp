// A model spread over two rpc-servers on this machine.
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>
#include <attnscope/session.h>

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;

extern char** environ;

namespace {

int free_port() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof a;
    bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof a);
    getsockname(fd, reinterpret_cast<sockaddr*>(&a), &size);
    close(fd);
    return ntohs(a.sin_port);
}

pid_t start(std::vector<std::string> args, const std::string& log) {
    std::vector<char*> argv;
    for (std::string& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t pid = 0;
    const int failed = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed) throw std::runtime_error("cannot start " + args[0]); // nothing to wait for
    return pid;
}

class RpcServer {
public:
    explicit RpcServer(const TempDir& dir) : port_(free_port()) {
        pid_ = start({ATTNSCOPE_RPC_SERVER, "-H", "127.0.0.1", "-p", std::to_string(port_), "-t", "1"},
                     dir.file("rpc-" + std::to_string(port_)));
        for (int i = 0; i < 200 && !answers(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ~RpcServer() { stop(); }
    void stop() {
        if (pid_ <= 0) return;
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

private:
    bool answers() const {
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        a.sin_port = htons(static_cast<uint16_t>(port_));
        const bool good = connect(fd, reinterpret_cast<sockaddr*>(&a), sizeof a) == 0;
        close(fd);
        return good;
    }
    int port_ = 0;
    pid_t pid_ = 0;
};

int run(const std::vector<std::string>& args, const std::string& log) {
    int status = 0;
    waitpid(start(args, log), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string text_of(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
}

std::string model(const TempDir& dir) {
    models::ModelShape shape;
    shape.arch = "llama";
    shape.n_layer = 6;
    std::string path = dir.file("model.gguf");
    EXPECT_TRUE(models::make_model(shape, path));
    return path;
}

std::vector<std::string> capture(const std::string& model_path, const std::string& output) {
    return {ATTNSCOPE_BIN, "capture", "-m",
            model_path,    "-p",      "The lighthouse keeper wrote every evening in a book.",
            "-n",          "40",      "--ignore-eos",
            "--temp",      "0",       "-t",
            "1",           "-c",      "512",
            "--force",     "-o",      output};
}

} // namespace

TEST(Rpc, RowsOfTwoServersAreBitForBitThoseOfOneMachine) {
    TempDir dir;
    const std::string path = model(dir);
    RpcServer one(dir), two(dir);
    for (const char* type : {"f16", "q8_0"}) {
        auto local = capture(path, dir.file("local.attn"));
        auto remote = capture(path, dir.file("remote.attn"));
        for (auto* args : {&local, &remote}) args->insert(args->end(), {"-ctk", type});
        remote.insert(remote.end(), {"--rpc", one.address() + "," + two.address()});
        ASSERT_EQ(run(local, dir.file("log")), 0) << text_of(dir.file("log"));
        ASSERT_EQ(run(remote, dir.file("log")), 0) << text_of(dir.file("log"));
        auto a = Recording::open(dir.file("local.attn")), b = Recording::open(dir.file("remote.attn"));
        ASSERT_TRUE(a && b);
        ASSERT_GT((*a)->info().n_frames, 40);
        ASSERT_EQ((*a)->info().n_frames, (*b)->info().n_frames);
        for (int64_t i = 0; i < (*a)->info().n_frames; ++i) {
            const auto x = (*a)->rows(i), y = (*b)->rows(i);
            ASSERT_TRUE(x && y);
            EXPECT_EQ(x->weights, y->weights) << type << ", token " << i;
            EXPECT_EQ((*b)->frame(i)->verdict, verdict_ok) << type << ", token " << i;
        }
    }
}

TEST(Rpc, AServerThatDiesInMidCaptureEndsInASentenceAndARecordingThatOpens) {
    TempDir dir;
    const std::string path = model(dir), output = dir.file("out.attn");
    RpcServer one(dir), two(dir);
    auto args = capture(path, output);
    for (std::string& a : args) {
        if (a == "40") a = "-1";
        if (a == "512") a = "60000";
    }
    args.insert(args.end(), {"--commits", "--rpc", one.address() + "," + two.address()});
    const pid_t pid = start(args, dir.file("log"));
    for (int i = 0; i < 400 && text_of(dir.file("log")).find("recorded") == std::string::npos; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    two.stop();
    int status = 0;
    waitpid(pid, &status, 0);
    const std::string log = text_of(dir.file("log"));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 2) << status << log;
    EXPECT_NE(log.find("RPC server stopped answering"), std::string::npos) << log;
    const size_t last = log.rfind("recorded ", log.rfind("what was recorded") - 1);
    ASSERT_NE(last, std::string::npos);
    auto recording = Recording::open(output);
    ASSERT_TRUE(recording) << recording.error().message;
    EXPECT_FALSE((*recording)->info().complete);
    EXPECT_GE((*recording)->info().n_frames, std::atol(log.c_str() + last + 9));
    EXPECT_GT((*recording)->info().n_frames, 0);
}

TEST(Rpc, AnAddressWhereNobodyAnswersIsNamed) {
    TempDir dir;
    auto args = capture(model(dir), dir.file("out.attn"));
    args.insert(args.end(), {"--rpc", "127.0.0.1:" + std::to_string(free_port())});
    EXPECT_EQ(run(args, dir.file("log")), 2);
    EXPECT_NE(text_of(dir.file("log")).find("no RPC server answers at 127.0.0.1:"), std::string::npos);
    args.back() = "nonsense";
    EXPECT_EQ(run(args, dir.file("log")), 2);
    EXPECT_NE(text_of(dir.file("log")).find("host:port"), std::string::npos);
}
