// A program that knows nothing of us runs as it did, and its attention is there: proven, and that of our own capture bit for bit.
#include "attach/host_output.h"
#include "attach/own_capture.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

const std::string program = ATTNSCOPE_BIN;
const std::string host = ATTNSCOPE_ATTACH_HOST;
const std::string prompt_ids = "11 27 3 91 45 8";

class Attach : public testing::Test {
protected:
    void SetUp() override {
        const Answer made = shell(program + " models make --layers 3 -o " + model + " 2>&1");
        ASSERT_EQ(made.code, 0) << made.output;
        fs::create_directory(dir.path() / "out");
    }
    std::string attach(const std::string& command) const { return program + " attach -o " + out + " -- " + command; }
    std::string run_host(int n_predict, bool flash) const {
        return host + " " + model + " " + std::to_string(n_predict) + (flash ? " 1 " : " 0 ") + prompt_ids;
    }
    TempDir dir;
    const std::string model = dir.file("m.gguf"), out = dir.file("out");
};

class AttachRows : public Attach, public testing::WithParamInterface<bool> {};

TEST_P(AttachRows, AreThoseOfOurOwnCaptureBitForBit) {
    const Answer plain = shell(run_host(24, GetParam()));
    ASSERT_EQ(plain.code, 0);
    const Answer attached = shell(attach(run_host(24, GetParam())) + " 2>" + dir.file("said"));
    ASSERT_EQ(attached.code, 0);
    EXPECT_EQ(attached.output, plain.output); // the program is its own
    const std::vector<std::string> files = recordings(out);
    ASSERT_EQ(files.size(), 1u) << shell("cat " + dir.file("said")).output;
    EXPECT_EQ(shell(program + " verify --all " + files[0] + " 2>&1").code, 0);

    expect_rows_of_our_own_capture(files[0], numbers(plain.output),
                                   {program, model, dir.file("ours"), prompt_ids, GetParam()});
}
INSTANTIATE_TEST_SUITE_P(Flash, AttachRows, testing::Bool());

TEST_F(Attach, AnEncoderAndItsDecoderAreRefusedInWordsAndLeftAlone) {
    const std::string t5 = dir.file("t5.gguf");
    ASSERT_EQ(shell(program + " models make --arch t5 --layers 2 -o " + t5 + " 2>&1").code, 0);
    for (const char* flash : {" 0 ", " 1 "}) {
        const std::string command = host + " " + t5 + " 6" + flash + prompt_ids;
        const Answer plain = shell(command);
        ASSERT_EQ(plain.code, 0);
        const Answer attached = shell(attach(command) + " 2>" + dir.file("said"));
        EXPECT_EQ(attached.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        const std::string said = shell("cat " + dir.file("said")).output;
        EXPECT_NE(said.find("the encoder of a T5"), std::string::npos) << said;
        EXPECT_NE(said.find("attnscope capture records such models"), std::string::npos) << said;
        EXPECT_TRUE(recordings(out).empty());
    }
}

TEST_F(Attach, ProgramsThatDoNotUseGgmlAreLeftAlone) {
    const Answer yes = shell(attach("/bin/true") + " 2>&1");
    EXPECT_EQ(yes.code, 0);
    EXPECT_NE(yes.output.find("nothing was captured"), std::string::npos) << yes.output;
    const Answer no = shell(attach("/bin/false") + " 2>&1");
    EXPECT_EQ(no.code, 1);
    EXPECT_NE(no.output.find("the program ended with status 1"), std::string::npos) << no.output;
    const Answer python = shell(attach("python3 -c 'print(6 * 7)'") + " 2>/dev/null");
    EXPECT_EQ(python.code, 0);
    EXPECT_EQ(python.output, "42\n");
    EXPECT_EQ(shell(attach("sh -c 'kill -9 $$'") + " 2>&1").code, 128 + SIGKILL);
    EXPECT_TRUE(recordings(out).empty());
}

// A page of nothing keeps nobody waiting; what belongs to a page or a front is refused without one.
TEST_F(Attach, APageOfNothingEndsWithTheProgram) {
    const std::string with = program + " attach -o " + out + " ";
    EXPECT_EQ(shell("timeout 20 " + with + "--view -- /bin/true 2>&1").code, 0);
    EXPECT_EQ(shell("timeout 20 " + with + "--view -- /bin/false 2>&1").code, 1);
    const Answer port = shell(with + "--port 99 -- /bin/true 2>&1"), to = shell(with + "--to h:5 -- /bin/true 2>&1");
    EXPECT_EQ(port.code, 2) << port.output;
    EXPECT_NE(port.output.find("--view"), std::string::npos) << port.output;
    EXPECT_EQ(to.code, 2) << to.output;
    EXPECT_NE(to.output.find("--serve"), std::string::npos) << to.output;
    const Answer none = shell(with + "--view -- no-such-program 2>&1");
    EXPECT_EQ(none.code, 2);
    EXPECT_EQ(none.output.find("shows what is recorded"), std::string::npos) << none.output;
}

// Ollama keeps its models under the digests of what is in them.
TEST_F(Attach, RecordingsOfAModelOfAStoreHaveTheModelsName) {
    const std::string store = dir.file("sha256-" + std::string(56, '0') + "01234567");
    fs::copy(model, store);
    const Answer attached = shell(attach(host + " " + store + " 2 1 " + prompt_ids) + " 2>&1");
    ASSERT_EQ(attached.code, 0) << attached.output;
    ASSERT_EQ(recordings(out).size(), 1u);
    const std::string name = fs::path(recordings(out)[0]).filename().string();
    EXPECT_EQ(name.find("made-llama"), 0u) << name;
    EXPECT_NE(name.find("-00000000-"), std::string::npos) << name;
}

TEST_F(Attach, OllamasAddressIsReadAsOllamaReadsIt) {
    const std::string ollama = dir.file("ollama");
    std::ofstream(ollama) << "#!/bin/sh\n";
    fs::permissions(ollama, fs::perms::owner_all);
    const std::array<std::array<const char*, 2>, 11> all = {{{"", "127.0.0.1:11434"},
                                                             {"0.0.0.0", "127.0.0.1:11434"},
                                                             {"0.0.0.0:8000", "127.0.0.1:8000"},
                                                             {":9001", "127.0.0.1:9001"},
                                                             {"box", "box:11434"},
                                                             {"box:port", "box:11434"},
                                                             {"http://box:9000/path", "box:9000"},
                                                             {"http://box", "box:80"},
                                                             {"https://box/", "box:443"},
                                                             {"::1", "::1:11434"},
                                                             {"[::1]:9002", "::1:9002"}}};
    for (const auto& [given, address] : all) {
        const std::string said = shell("OLLAMA_HOST='" + std::string(given) + "' " + program +
                                       " attach --serve 127.0.0.1:0 -- " + ollama + " serve 2>&1")
                                     .output;
        EXPECT_NE(said.find("in front of " + std::string(address) + "\n"), std::string::npos) << given << ": " << said;
    }
}

TEST_F(Attach, AProgramThatIsNotThereIsNamed) {
    const Answer answer = shell(attach("/nonexistent/program") + " 2>&1");
    EXPECT_EQ(answer.code, 2);
    EXPECT_NE(answer.output.find("/nonexistent/program"), std::string::npos) << answer.output;
}

TEST_F(Attach, AFolderThatCannotBeWrittenIntoIsRefusedWithTheReason) {
    std::ofstream(dir.file("file")) << "kept";
    fs::create_symlink(dir.file("nowhere"), dir.file("dangling"));
    const auto refused = [&](const std::string& folder, const std::string& why) {
        const Answer answer =
            shell_all("cd " + dir.path().string() + " && " + program + " attach -o " + folder + " -- /bin/echo ran");
        EXPECT_EQ(answer.code, 2) << folder;
        EXPECT_NE(answer.output.find(why), std::string::npos) << folder << ": " << answer.output;
        EXPECT_EQ(answer.output.find("ran"), std::string::npos) << folder;
    };
    const std::string words = "recordings cannot be written into ";
    refused("file", words + "file: it is no folder");
    refused("file/below", words + "file/below: Not a directory");
    refused("dangling", words + "dangling: ");
    refused("/dev/null", words + "/dev/null: it is no folder");
    refused(std::string(300, 'n'), "File name too long");
    refused("", "-o wants a folder"); // the next word was taken for it
    EXPECT_EQ(shell("cat " + dir.file("file")).output, "kept");
}

// No file may become as large as the recording: what is said at the end is said of what is there.
TEST_F(Attach, TokensThatDidNotGetIntoTheFileAreNotCountedAmongThoseThatAreOk) {
    const std::string large =
        " models make --force --layers 8 --heads 16 --kv-heads 16 --head-dim 64 --embd 64 -o "; // 32 KB a token
    ASSERT_EQ(shell(program + large + model + " 2>&1").code, 0);
    for (const char* no_verify : {"", "--no-verify "}) {
        fs::remove_all(out);
        const Answer answer = shell_all("trap '' XFSZ; ulimit -f 4096; ATTNSCOPE_RING_MIB=1 " + program + " attach " +
                                        no_verify + "-o " + out + " -- " + run_host(200, true));
        EXPECT_EQ(answer.code, 0) << answer.output; // the program's own
        const std::vector<std::string> files = recordings(out);
        ASSERT_EQ(files.size(), 1u);
        auto recording = Recording::open(files[0]);
        ASSERT_TRUE(recording) << recording.error().message;
        const int64_t n = (*recording)->info().n_frames;
        ASSERT_LT(n, 200);
        const std::string there =
            files[0] + ": " + (*no_verify ? "" : std::to_string(n) + " of ") + std::to_string(n) + " tokens";
        EXPECT_NE(answer.output.find(there), std::string::npos) << answer.output;
        EXPECT_NE(answer.output.find(" more did not get into it"), std::string::npos) << answer.output;
    }
}

TEST_F(Attach, ARingOfAnImpossibleSizeIsRefused) {
    for (const char* size : {"abc", "-1", "0", "12x", "16385", "99999999999999999999"}) {
        const Answer answer =
            shell(std::string("ATTNSCOPE_RING_MIB=") + size + " " + attach("sh -c 'echo it runs'") + " 2>&1");
        EXPECT_EQ(answer.code, 2) << size;
        EXPECT_NE(answer.output.find(std::string(size) + " is no number of MiB from 1 to "), std::string::npos)
            << answer.output;
        EXPECT_EQ(answer.output.find("it runs"), std::string::npos) << size;
    }
    EXPECT_EQ(shell("ATTNSCOPE_RING_MIB= " + attach("sh -c 'exit 7'") + " 2>&1").code, 7);
}

// With its cache of prompts a llama-server changes what others are answered when a request names a slot.
TEST_F(Attach, AServersCacheOfPromptsIsOffOrWarnedOf) {
    const auto serve = [&](const std::string& before, const std::string& words) {
        return shell(before + " " + program + " attach --serve 127.0.0.1:0 --to 127.0.0.1:9 -q -- sh -c 'echo " +
                     "ram=$LLAMA_ARG_CACHE_RAM' " + words + " 2>&1")
            .output;
    };
    const std::string warning = "warning: with --cache-ram ";
    EXPECT_NE(serve("", "").find("ram=0\n"), std::string::npos) << serve("", "");
    EXPECT_EQ(serve("", "").find(warning), std::string::npos);
    EXPECT_EQ(serve("", "--cache-ram 0").find(warning), std::string::npos);
    EXPECT_NE(serve("", "--cache-ram 512").find(warning + "512"), std::string::npos);
    EXPECT_NE(serve("", "-cram 512").find(warning + "512"), std::string::npos);
    const std::string given = serve("LLAMA_ARG_CACHE_RAM=100", "");
    EXPECT_NE(given.find(warning + "100"), std::string::npos) << given;
    EXPECT_NE(given.find("ram=100\n"), std::string::npos) << given;
}

// Slots that share one cache: where that is certain it is said before anybody asks.
TEST_F(Attach, SlotsThatCannotBeToldApartAreWarnedOf) {
    const auto warned = [&](const std::string& words, const std::string& before = {}) {
        const std::string said =
            shell(before + " " + program + " attach --serve 127.0.0.1:0 --to 127.0.0.1:9 -q -- sh -c 'true' " + words +
                  " 2>&1")
                .output;
        return said.find("warning: the slots share one cache (--kv-unified, ") != std::string::npos;
    };
    for (const char* words : {"--kv-unified -np 2", "-kvu --parallel 4", "-np 4 --no-kv-unified -kvu", "-np -1",
                              "-np -1 --no-kv-unified"}) // "auto": four, whatever was said
        EXPECT_TRUE(warned(words)) << words;
    EXPECT_TRUE(warned("-np 2", "LLAMA_ARG_KV_UNIFIED=1"));
    EXPECT_TRUE(warned("-kvu", "LLAMA_ARG_N_PARALLEL=2"));
    for (const char* words : {"", "-np 4", "-kvu", "-kvu -np 1", "-np 4 --no-kv-unified", "-kvu -np 4 -no-kvu"})
        EXPECT_FALSE(warned(words)) << words;
    EXPECT_FALSE(warned("-np 2 --no-kv-unified", "LLAMA_ARG_KV_UNIFIED=1"));
    EXPECT_FALSE(warned("-np 2", "LLAMA_ARG_KV_UNIFIED=0"));
}

// SIGKILL at some token: what was decoded before it is there, and proven.
TEST_F(Attach, AKilledProgramLosesNothingThatItHandedOver) {
    const Answer answer = shell(attach("sh -c 'ATTACH_HOST_PAUSE=20 " + run_host(400, true) + " >" + dir.file("ids") +
                                       " & sleep 2; kill -9 $!; wait $!'") +
                                " 2>" + dir.file("said"));
    EXPECT_EQ(answer.code, 128 + SIGKILL);
    std::ifstream in(dir.file("ids"));
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    const std::vector<int32_t> tokens = numbers(text);
    ASSERT_GT(tokens.size(), 10u);
    ASSERT_LT(tokens.size(), 400u);
    const std::vector<std::string> files = recordings(out);
    ASSERT_EQ(files.size(), 1u);
    auto recording = Recording::open(files[0]);
    ASSERT_TRUE(recording);
    // an id is printed before its token is decoded: all but the last were handed over
    const int64_t n = (*recording)->info().n_frames;
    EXPECT_GE(n, int64_t(tokens.size()) - 1);
    EXPECT_LE(n, int64_t(tokens.size()));
    EXPECT_EQ(shell(program + " verify " + files[0] + " 2>&1").code, 0);
}

// The parent is killed: the program goes on to its end, with the same output, and leaves no memory behind.
TEST_F(Attach, AProgramOutlivesItsParent) {
    const std::string large =
        " models make --force --layers 8 --heads 16 --kv-heads 16 --head-dim 64 --embd 64 -o "; // 32 KB a token
    ASSERT_EQ(shell(program + large + model + " 2>&1").code, 0);
    const Answer plain = shell(run_host(120, true));
    const std::string ids = dir.file("ids");
    shell("ATTNSCOPE_RING_MIB=1 ATTACH_HOST_PAUSE=20 " +
          attach("sh -c '" + run_host(120, true) + " >" + ids + "; echo $? >" + dir.file("code") + "'") + " 2>" +
          dir.file("said") + " & sleep 1; kill -9 $!; wait");
    for (int i = 0; i < 300 && !fs::exists(dir.file("code")); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(shell("cat " + dir.file("code")).output, "0\n");
    EXPECT_EQ(shell("cat " + ids).output, plain.output);
    const std::string said = shell("cat " + dir.file("said")).output;
    EXPECT_NE(said.find("nobody takes what is captured any more; the program goes on without"), std::string::npos)
        << said;
}

// An environment that outlived its parent, and a parent without the library.
TEST_F(Attach, WithoutAParentTheProgramSaysSoOnce) {
    const std::string environment =
        "LD_PRELOAD=" ATTNSCOPE_ATTACH_LIBRARY " ATTNSCOPE_ATTACH=" + dir.file("gone") + " ";
    const Answer plain = shell(run_host(20, true)),
                 answer = shell(environment + run_host(20, true) + " 2>" + dir.file("said"));
    EXPECT_EQ(answer.code, 0);
    EXPECT_EQ(answer.output, plain.output);
    EXPECT_EQ(shell("cat " + dir.file("said")).output,
              "attnscope: no attnscope attach waits at " + dir.file("gone") + "; nothing is captured\n");
    const Answer without = shell("ATTNSCOPE_ATTACH_LIBRARY=/nonexistent.so " + attach("/bin/true") + " 2>&1");
    EXPECT_EQ(without.code, 2);
    EXPECT_NE(without.output.find("ATTNSCOPE_ATTACH_LIBRARY names /nonexistent.so, which is not there"),
              std::string::npos)
        << without.output;
    const Answer copy =
        shell("cp " + program + " " + dir.file("alone") + " && " + dir.file("alone") + " attach -- /bin/true 2>&1");
    if (copy.code == 2) {
        EXPECT_NE(copy.output.find("libattnscope_attach.so is not beside "), std::string::npos) << copy.output;
    }
}

} // namespace
