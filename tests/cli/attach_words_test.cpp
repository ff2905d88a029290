// What attnscope attach and serve say and leave where nothing comes of it.
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

Answer run(const std::string& arguments) {
    return shell_all(ATTNSCOPE_BIN " " + arguments);
}

// Listens on a port of this machine while it lives.
class TakenPort {
public:
    TakenPort() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        auto* const any = reinterpret_cast<sockaddr*>(&address);
        socklen_t size = sizeof address;
        if (bind(fd_, any, size) == 0 && listen(fd_, 1) == 0 && getsockname(fd_, any, &size) == 0)
            port = ntohs(address.sin_port);
    }
    ~TakenPort() { close(fd_); }
    TakenPort(const TakenPort&) = delete;
    TakenPort& operator=(const TakenPort&) = delete;
    int port = 0;

private:
    int fd_;
};

} // namespace

TEST(AttachWords, AServerThatOthersReachWarnsOfStrangers) {
    const std::string warning = "warning: anybody who reaches 0.0.0.0 may use this server; give it an --api-key\n";
    const std::string rest = " --to 127.0.0.1:9 -- true";
    for (const char* quiet : {"", "-q "}) {
        const Answer warned = run(std::string("attach ") + quiet + "--serve 0.0.0.0:0" + rest);
        EXPECT_NE(warned.output.find(warning), std::string::npos) << quiet << warned.output;
    }
    const TempDir dir;
    std::ofstream(dir.file("keys")) << "secret\n";
    for (const std::string& safe :
         {std::string("127.0.0.1:0"), std::string("127.0.0.2:0"), std::string("0.0.0.0:0 --api-key secret"),
          "0.0.0.0:0 --api-key-file " + dir.file("keys")}) {
        const Answer quiet = run("attach --serve " + safe + rest);
        EXPECT_NE(quiet.output.find("listening on"), std::string::npos) << quiet.output;
        EXPECT_EQ(quiet.output.find("warning"), std::string::npos) << safe << ": " << quiet.output;
    }
}

TEST(AttachWords, TheProgramGetsWhatItWasGiven) {
    for (const std::string& given : {std::string("-ctk q8 -ctv -ngl -fa -ub -dev -np"), std::string("-- -ngl --json")})
        EXPECT_EQ(shell(ATTNSCOPE_BIN " attach -q -- echo " + given + " 2>/dev/null").output, given + "\n");
}

// As supervisors start their children, and nohup.
TEST(AttachWords, SignalsThatWereIgnoredAtTheStart) {
    const std::string python =
        "import signal, subprocess, sys\nignore = lambda: signal.signal(getattr(signal, sys.argv[1]), signal.SIG_IGN)\n"
        "sys.exit(subprocess.run(sys.argv[2:], timeout=20, preexec_fn=ignore).returncode)";
    const TempDir dir;
    std::ofstream(dir.file("start.py")) << python;
    const std::string start = "python3 " + dir.file("start.py");
    EXPECT_EQ(shell(start + " SIGCHLD " ATTNSCOPE_BIN " attach -q -- sh -c 'exit 7' 2>/dev/null").code, 7);
    const std::string script = "kill -HUP $PPID; kill -HUP $$; sleep 0.3; exit 5"; // to attach, and to the program
    EXPECT_EQ(shell(start + " SIGHUP " ATTNSCOPE_BIN " attach -q -- sh -c '" + script + "' 2>/dev/null").code, 5);
}

TEST(AttachWords, WhoCouldNotBeginLeavesNoFolderBehind) {
    const TempDir dir;
    const std::string folder = dir.file("a/b/c"), bert = dir.file("bert.gguf");
    ASSERT_EQ(run("models make --arch bert -o " + bert).code, 0);
    fs::create_directory(dir.file("kept"));
    const TakenPort taken;
    const std::string address = "127.0.0.1:" + std::to_string(taken.port);
    for (const std::string& command :
         {"attach -o " + folder + " -- /no/such/program", "attach -o " + folder + " --serve nowhere -- true",
          "attach -o " + folder + "/ --serve " + address + " --to 127.0.0.1:9 -- true",
          "attach -o " + folder + " --view --port " + std::to_string(taken.port) + " -- true",
          "ATTNSCOPE_RING_MIB=no attach -o " + folder + " -- true", "serve --record " + folder + " -m " + bert}) {
        const Answer answer = command.starts_with("ATTNSCOPE_")
                                  ? shell_all("ATTNSCOPE_RING_MIB=no " ATTNSCOPE_BIN + command.substr(21))
                                  : run(command);
        EXPECT_EQ(answer.code, 2) << command << ": " << answer.output;
        EXPECT_FALSE(fs::exists(dir.file("a"))) << command << ": " << answer.output;
    }
    EXPECT_EQ(run("attach -o " + dir.file("kept") + " --serve nowhere -- true").code, 2);
    EXPECT_TRUE(fs::exists(dir.file("kept"))) << "it was there before";
    EXPECT_EQ(run("attach -o " + folder + " -- true").code, 0);
    EXPECT_TRUE(fs::exists(folder)) << "the program ran";
}

TEST(AttachWords, WhereNothingWasSeenItIsSaidHowToFindOutWhy) {
    const TempDir dir;
    const Answer nothing = run("attach -o " + dir.path().string() + " -- true");
    EXPECT_EQ(nothing.code, 0);
    EXPECT_EQ(nothing.output.rfind("attnscope: nothing was captured: ", 0), 0u) << nothing.output;
    EXPECT_NE(nothing.output.find("attnscope attach --check PROGRAM"), std::string::npos) << nothing.output;
    EXPECT_NE(nothing.output.find("docs/attach/index.md"), std::string::npos) << nothing.output;
    EXPECT_TRUE(fs::exists(ATTNSCOPE_SOURCE_DIR "/docs/attach/index.md"));
}

TEST(AttachWords, WhyAPortCannotBeListenedOnIsSaid) {
    const TempDir dir;
    const TakenPort taken;
    ASSERT_GT(taken.port, 0);
    ASSERT_EQ(run("models make --layers 2 -o " + dir.file("m.gguf")).code, 0);
    ASSERT_EQ(run("capture -m " + dir.file("m.gguf") + " -t 1 -p abc -n 1 -o " + dir.file("x.attn")).code, 0);
    const std::string view = "view --no-browser " + dir.file("x.attn") + " --port ", port = std::to_string(taken.port);
    const Answer used = run(view + port);
    EXPECT_EQ(used.code, 2);
    EXPECT_EQ(used.output, "error: cannot listen on 127.0.0.1 port " + port +
                               ": the port is in use; choose another port (--port; 0 is a free one)\n");
    const Answer attached = run("attach --serve 127.0.0.1:" + port + " --to 127.0.0.1:9 -- true");
    EXPECT_NE(attached.output.find("the port is in use"), std::string::npos) << attached.output;
    const Answer elsewhere = run(view + "0 --host 203.0.113.7"); // of documents (RFC 5737): nobody's
    EXPECT_EQ(elsewhere.code, 2);
    EXPECT_NE(elsewhere.output.find("it is not an address of this machine"), std::string::npos) << elsewhere.output;
    const Answer unknown = run(view + "0 --host 'no name'");
    EXPECT_EQ(unknown.code, 2);
    EXPECT_NE(unknown.output.find("no address of the name no name is known"), std::string::npos) << unknown.output;
}

// What the page of node-llama-cpp gives to be copied, without attnscope in PATH.
TEST(AttachWords, InNodeAMissingProgramIsASentence) {
    if (shell_all("node --version").code != 0) GTEST_SKIP() << "there is no Node.js here";
    const TempDir dir;
    fs::create_directories(dir.file("node_modules/koffi"));
    std::ofstream(dir.file("node_modules/koffi/package.json")) << R"({"main": "index.js"})";
    std::ofstream(dir.file("node_modules/koffi/index.js")) << "module.exports = {};\n"; // it does not come to that
    fs::copy_file(ATTNSCOPE_SOURCE_DIR "/tests/attach/programs/attach.mjs", dir.file("attach.mjs"));
    std::ofstream(dir.file("program.mjs")) << "import {attach} from './attach.mjs';\n"
                                              "try { await attach('out', process.argv[2]); }\n"
                                              "catch (error) { console.log(error.message); }\n";
    const std::string said = " cannot be started: there is no such program in PATH; its path is the second argument of "
                             "attach()\n";
    EXPECT_EQ(shell_all("cd " + dir.path().string() + " && node program.mjs no-such-attnscope").output,
              "no-such-attnscope" + said);
    EXPECT_EQ(shell_all("cd " + dir.path().string() + " && node=$(command -v node) && PATH=/nowhere $node program.mjs")
                  .output,
              "attnscope" + said);
}
