// attnscope info and verify of several recordings and of folders of them.
#include "support/file_bytes.h"
#include "support/shell.h"
#include "support/temp_dir.h"
#include "support/terminal.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

using namespace attnscope::test;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

class SeveralRecordings : public testing::Test {
protected:
    void SetUp() override {
        const std::string model = dir.file("m.gguf");
        fs::create_directory(folder);
        ASSERT_EQ(run("models make --layers 2 -o " + model).code, 0);
        const std::string capture = "capture -m " + model + " -t 1 --ignore-eos -n 2 --no-parse-special -o ";
        ASSERT_EQ(run(capture + a + " -p 'the first'").code, 0);
        ASSERT_EQ(run(capture + b +
                      " -p '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhy is it "
                      "blue?<|im_end|>\n<|im_start|>assistant\n'")
                      .code,
                  0);
        std::ofstream(folder + "/notes.txt") << "no recording";
    }
    static Answer run(const std::string& arguments) { return shell_all(ATTNSCOPE_BIN " " + arguments); }
    // Bytes in the middle become others.
    static void damage(const std::string& path) {
        std::string bytes = read_bytes(path);
        for (size_t at = bytes.size() / 2; at < bytes.size() / 2 + 4000 && at < bytes.size(); ++at)
            bytes[at] = static_cast<char>(~bytes[at]);
        write_bytes(path, bytes);
    }
    TempDir dir;
    const std::string folder = dir.file("recordings"), a = folder + "/a.attn", b = folder + "/b.attn";
};

} // namespace

TEST_F(SeveralRecordings, InfoOfAFolderIsALineForEach) {
    const Answer table = run("info " + folder);
    EXPECT_EQ(table.code, 0);
    const std::vector<std::string> lines = lines_of(table.output);
    ASSERT_EQ(lines.size(), 3u) << table.output;
    EXPECT_EQ(lines[0], "file     tokens  state   words");
    EXPECT_EQ(lines[1].rfind("a.attn  ", 0), 0u) << lines[1];
    EXPECT_NE(lines[1].find("  closed  the first"), std::string::npos) << lines[1];
    EXPECT_TRUE(lines[2].ends_with("  closed  Why is it blue?")) << lines[2];
    EXPECT_EQ(run("info " + a + " " + b).output, table.output);
    const Json list = Json::parse(run("info --json " + folder).output);
    ASSERT_EQ(list.size(), 2u);
    EXPECT_EQ(list[0], Json::parse(run("info --json " + a).output));
    EXPECT_EQ(list[1], Json::parse(run("info --json " + b).output));
}

TEST_F(SeveralRecordings, ALineFitsATerminal) {
    if (on_terminal("true").code != 0) GTEST_SKIP() << "there are no terminals here";
    for (const char* name :
         {"", "SmolLM2-135M-Instruct.Q4_1-1234567-", "a-name-that-leaves-no-room-for-any-other-word-in-its-line-"}) {
        const std::string long_folder = dir.file("long");
        fs::create_directory(long_folder);
        fs::copy_file(b, long_folder + "/" + name + "1.attn");
        const Answer seen = on_terminal(ATTNSCOPE_BIN " info " + long_folder);
        EXPECT_EQ(seen.code, 0);
        for (const std::string& line : lines_of(seen.output)) EXPECT_LE(line.size(), 80u) << line;
        EXPECT_NE(seen.output.find("Why is it"), std::string::npos) << seen.output;
        fs::remove_all(long_folder);
    }
}

TEST_F(SeveralRecordings, VerifyTellsOfEachAndExitsAsTheWorst) {
    const Answer good = run("verify " + folder);
    EXPECT_EQ(good.code, 0);
    EXPECT_NE(good.output.find(a + ": good\n"), std::string::npos) << good.output;
    EXPECT_NE(good.output.find(b + ": good\n"), std::string::npos) << good.output;
    EXPECT_TRUE(good.output.ends_with("2 of 2 recordings are good\n")) << good.output;
    EXPECT_EQ(run("verify " + a + " " + b).output, good.output);
    const Json list = Json::parse(run("verify --json " + folder).output);
    ASSERT_EQ(list.size(), 2u);
    EXPECT_EQ(list[0], Json::parse(run("verify --json " + a).output)) << "of one it is no list";
    damage(a);
    const Answer bad = run("verify " + folder);
    EXPECT_EQ(bad.code, run("verify " + a).code);
    EXPECT_NE(bad.code, 0);
    EXPECT_NE(bad.output.find(b + ": good\n"), std::string::npos) << "the others are looked at: " << bad.output;
    EXPECT_TRUE(bad.output.ends_with("1 of 2 recordings are good\n")) << bad.output;
}

TEST_F(SeveralRecordings, WhatCannotBeReadIsToldBesideTheOthers) {
    std::ofstream(folder + "/c.attn") << "no recording at all, although it is called one";
    for (const char* verb : {"info ", "verify "}) {
        const Answer some = run(verb + folder);
        EXPECT_EQ(some.code, 2) << verb;
        EXPECT_NE(some.output.find("a.attn"), std::string::npos) << verb << some.output;
        EXPECT_NE(some.output.find("error: " + folder + "/c.attn is no recording"), std::string::npos) << some.output;
        const Answer json = run(std::string(verb) + "--json " + folder);
        EXPECT_EQ(json.code, 2) << verb;
        const Json list = Json::parse(json.output);
        ASSERT_EQ(list.size(), 3u) << verb;
        EXPECT_EQ(list[2]["error"]["kind"], "not_ours") << verb << json.output;
        EXPECT_EQ(list[2][std::string(verb) == "info " ? "path" : "recording"], folder + "/c.attn") << verb;
    }
}
