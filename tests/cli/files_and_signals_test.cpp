// What the system does to a program that writes: closed pipes, limits, signals, names that are no files. What is good
// stays, a sentence says what happened, and the exit code is right.
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <sys/stat.h>

using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

class FilesAndSignals : public testing::Test {
protected:
    void SetUp() override {
        const Answer made = shell_all(program + " models make --layers 3 -o " + dir.file("m.gguf"));
        ASSERT_EQ(made.code, 0) << made.output;
    }
    std::string capture(const std::string& rest) const {
        return program + " capture -m " + dir.file("m.gguf") + " -t 1 --ignore-eos " + rest;
    }
    void expect_good(const std::string& recording, bool complete) const {
        const Answer info = shell_all(program + " info --json " + recording);
        ASSERT_EQ(info.code, 0) << info.output;
        const auto facts = nlohmann::json::parse(info.output);
        EXPECT_EQ(facts["complete"], complete) << info.output;
        EXPECT_EQ(shell_all(program + " verify " + recording).code, 0);
    }
    const std::string program = ATTNSCOPE_BIN;
    TempDir dir;
};

} // namespace

TEST_F(FilesAndSignals, NoWriterReplacesWhatIsNoRegularFile) {
    const std::string recording = dir.file("x.attn"), pipe = dir.file("pipe"), link = dir.file("link");
    ASSERT_EQ(shell_all(capture("-p 'abc' -n 4 -o " + recording)).code, 0);
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    fs::create_symlink("/dev/null", link);
    for (const std::string& path : {pipe, link}) {
        for (const std::string& command :
             {capture("-p abc -n 4 --force -o " + path),
              program + " export " + recording + " --to npy --padded -o " + path,
              program + " export " + recording + " --to safetensors -o " + path,
              program + " export " + recording + " --to halo-weave -o " + path,
              program + " diagnose " + recording + " --html " + path, program + " filter " + recording + " -o " + path,
              program + " models make -o " + path}) {
            const Answer answer = shell_all(command);
            EXPECT_EQ(answer.code, 2) << command << "\n" << answer.output;
        }
    }
    EXPECT_TRUE(fs::is_fifo(pipe));
    EXPECT_TRUE(fs::is_symlink(link));
    for (const auto& entry : fs::directory_iterator(dir.path()))
        EXPECT_EQ(entry.path().string().find(".part-"), std::string::npos) << entry.path();
}

TEST_F(FilesAndSignals, TwoCapturesToOneNameOneWins) {
    const std::string recording = dir.file("x.attn");
    const std::string one = capture("-p 'abc def' -n 120 --force -o " + recording);
    const Answer both =
        shell_all("(" + one + " > " + dir.file("a") + " 2>&1; echo $? > " + dir.file("a.code") + ") & (" + one + " > " +
                  dir.file("b") + " 2>&1; echo $? > " + dir.file("b.code") + ") & wait");
    ASSERT_EQ(both.code, 0);
    int good = 0;
    for (const char* name : {"a", "b"}) {
        int code = -1;
        std::ifstream(dir.file(std::string(name) + ".code")) >> code;
        std::ifstream in(dir.file(name));
        const std::string said((std::istreambuf_iterator<char>(in)), {});
        good += code == 0;
        if (code != 0) {
            EXPECT_EQ(code, 2) << said;
            EXPECT_NE(said.find("another capture is writing it"), std::string::npos) << said;
        }
    }
    EXPECT_GE(good, 1); // both, where one began after the other had ended
    expect_good(recording, true);
}

TEST_F(FilesAndSignals, AClosedOutputStopsWithASentenceAndKeepsTheRecording) {
    const std::string recording = dir.file("x.attn");
    const Answer closed =
        shell_all("{ " + capture("-p 'abc' -n 4000 -o " + recording) + "; echo code $? >&2; } | head -c 1 > /dev/null");
    EXPECT_NE(closed.output.find("standard output was closed"), std::string::npos) << closed.output;
    EXPECT_NE(closed.output.find("code 2"), std::string::npos) << closed.output;
    expect_good(recording, true);
    // none from the start: the recording must not become standard output
    const std::string other = dir.file("y.attn");
    const Answer none = shell_all(capture("-p 'abc' -n 4 -o " + other) + " >&-");
    EXPECT_EQ(none.code, 2) << none.output;
    expect_good(other, true);
    const Answer shown =
        shell_all("{ " + program + " show " + recording + " --token 3 --top 50; echo code $? >&2; } | true");
    EXPECT_TRUE(shown.output.find("code 0") != std::string::npos || shown.output.find("code 2") != std::string::npos)
        << shown.output;
}

TEST_F(FilesAndSignals, ALimitOfFileSizeKeepsWhatFitted) {
    const std::string recording = dir.file("x.attn");
    const Answer limited = shell_all("ulimit -f 1200; " + capture("-p 'abc' -n 4000 -o " + recording));
    EXPECT_EQ(limited.code, 2) << limited.output;
    EXPECT_NE(limited.output.find("error:"), std::string::npos) << limited.output;
    EXPECT_NE(limited.output.find("tokens are recorded in"), std::string::npos) << limited.output;
    expect_good(recording, false);
}

// What it says of a recording is true of what lies there.
TEST_F(FilesAndSignals, OfADeletedRecordingNoTokenIsToldToBeThere) {
    const std::string recording = dir.file("x.attn");
    const Answer gone = shell_all(capture("--commits -p 'abc' -n 40000 -o " + recording) +
                                  " 2>&1 | while read line; do echo \"$line\"; rm -f " + recording + "; done");
    EXPECT_NE(gone.output.find("it was deleted or replaced"), std::string::npos) << gone.output;
    EXPECT_EQ(gone.output.find("tokens are recorded in"), std::string::npos) << gone.output;
}

TEST_F(FilesAndSignals, SigHupEndsACaptureAsControlCDoes) {
    for (const char* signal : {"HUP", "TERM", "INT"}) {
        const std::string recording = dir.file(std::string(signal) + ".attn");
        // the shell of popen ignores SIGINT in what it runs in the background; env lifts that
        const Answer stopped =
            shell_all("env --default-signal=INT,HUP " + capture("-p 'abc' -n 3900 -o " + recording) +
                      " > /dev/null & p=$!; "
                      "while [ ! -s " +
                      recording + " ]; do sleep 0.05; done; sleep 0.3; kill -" + signal + " $p; wait $p");
        EXPECT_EQ(stopped.code, 0) << signal << ": " << stopped.output;
        EXPECT_NE(stopped.output.find("stopped"), std::string::npos) << stopped.output;
        expect_good(recording, true);
        EXPECT_NE(shell_all(program + " info " + recording).output.find(".attn, interrupted"), std::string::npos);
    }
}

TEST_F(FilesAndSignals, AModelThatIsCutInUseIsASentence) {
    const std::string recording = dir.file("x.attn");
    const Answer cut =
        shell_all(capture("-p 'abc' -n 3900 -o " + recording) + " > /dev/null & p=$!; while [ ! -s " + recording +
                  " ]; do sleep 0.05; done; sleep 0.3; truncate -s 4096 " + dir.file("m.gguf") + "; wait $p");
    EXPECT_EQ(cut.code, 2) << cut.output;
    EXPECT_NE(cut.output.find("was cut short"), std::string::npos) << cut.output;
    expect_good(recording, false);
}

TEST_F(FilesAndSignals, PromptsComeFromStandardInputAndSpecialTokensAreRead) {
    const Answer piped =
        shell_all("printf 'abc def' | " + capture("-f - -n 2 --json -o " + dir.file("a.attn") + " 2>/dev/null"));
    ASSERT_EQ(piped.code, 0) << piped.output;
    const Answer given = shell_all(capture("-p 'abc def' -n 2 --json -o " + dir.file("b.attn") + " 2>/dev/null"));
    EXPECT_EQ(nlohmann::json::parse(piped.output)["n_prompt"], nlohmann::json::parse(given.output)["n_prompt"]);
    const Answer doubled = shell_all(capture("-p '<s>abc' -n 2 -o " + dir.file("c.attn")));
    EXPECT_NE(doubled.output.find("two tokens that begin a text"), std::string::npos) << doubled.output;
    const Answer plain = shell_all(capture("-p '<s>abc' --no-parse-special -n 2 --json -o " + dir.file("d.attn")));
    ASSERT_EQ(plain.code, 0) << plain.output;
    EXPECT_EQ(plain.output.find("two tokens that begin a text"), std::string::npos) << plain.output;
}

TEST_F(FilesAndSignals, AWebPageOrAPointerInAModelsPlaceIsNamed) {
    std::ofstream(dir.file("page.gguf")) << "<!DOCTYPE html>\n<html><body>Hugging Face</body></html>\n"
                                         << std::string(200, ' ');
    EXPECT_NE(shell_all(program + " capture -p a -m " + dir.file("page.gguf")).output.find("HTML page"),
              std::string::npos);
    std::ofstream(dir.file("lfs.gguf")) << "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n";
    EXPECT_NE(shell_all(program + " capture -p a -m " + dir.file("lfs.gguf")).output.find("Git LFS pointer"),
              std::string::npos);
}
