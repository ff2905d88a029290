// Nobody's file is replaced unless --force says so, and no folder that holds anything is written into.
#include "support/file_bytes.h"
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

class Output : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_EQ(run("models make --layers 2 -o " + model).code, 0);
        ASSERT_EQ(run("capture -m " + model + " -t 1 -p abc -n 2 -o " + recording).code, 0);
    }
    static Answer run(const std::string& arguments) { return shell_all(ATTNSCOPE_BIN " " + arguments); }
    TempDir dir;
    const std::string model = dir.file("m.gguf"), recording = dir.file("x.attn");
};

} // namespace

TEST_F(Output, AFileIsReplacedOnlyByForce) {
    const std::string there = dir.file("there"), exported = "export " + recording + " --to ";
    const std::pair<std::string, std::string> cases[] = {
        {"models make --layers 2 -o " + there, "-o"},
        {"capture -m " + model + " -t 1 -p abc -n 1 -o " + there, "-o"},
        {exported + "html -o " + there, "-o"},
        {exported + "npy --padded -o " + there, "-o"},
        {exported + "npy --token 1 -o " + there, "-o"},
        {exported + "safetensors -o " + there, "-o"},
        {exported + "bertviz -o " + there, "-o"},
        {exported + "circuitsvis --layer 0 -o " + there, "-o"},
        {exported + "attnview --layer 0 -o " + there, "-o"},
        {"diagnose " + recording + " --html " + there, "--html"},
    };
    for (const auto& [command, option] : cases) {
        std::ofstream(there) << "somebody's";
        const Answer refused = run(command);
        EXPECT_EQ(refused.code, 2) << command;
        EXPECT_EQ(refused.output,
                  "error: " + there + " exists; choose another name with " + option + ", or --force to replace it\n")
            << command;
        EXPECT_EQ(read_bytes(there), "somebody's") << command;
        EXPECT_EQ(run(command + " --force").code, 0) << command;
        EXPECT_NE(read_bytes(there), "somebody's") << command;
        fs::remove(there);
        EXPECT_EQ(run(command).code, 0) << command;
    }
}

// Not even by --force.
TEST_F(Output, WhatIsReadIsNotReplaced) {
    const std::string link = dir.file("again.attn"), recorded = read_bytes(recording), made = read_bytes(model);
    fs::create_hard_link(recording, link);
    for (const std::string& command : {"export " + recording + " --to html --force -o " + recording,
                                       "export " + recording + " --to npy --padded --force -o " + link,
                                       "diagnose " + recording + " --force --html " + recording,
                                       "capture -m " + model + " -t 1 -p abc -n 1 --force -o " + model,
                                       "models make --vocab-from " + model + " --force -o " + model}) {
        const Answer refused = run(command);
        EXPECT_EQ(refused.code, 2) << command;
        EXPECT_NE(refused.output.find(" is what is read"), std::string::npos) << command << ": " << refused.output;
    }
    EXPECT_EQ(read_bytes(recording), recorded);
    EXPECT_EQ(read_bytes(model), made);
}

TEST_F(Output, WhatIsReadIsNotReplacedByACapture) {
    const std::string prompt = dir.file("p.txt");
    for (const char* option : {" -f ", " --input-ids "}) {
        std::ofstream(prompt) << "[1, 2, 3]";
        const Answer refused = run("capture -m " + model + " -t 1 -n 1 --force -o " + prompt + option + prompt);
        EXPECT_EQ(refused.code, 2) << refused.output;
        EXPECT_EQ(read_bytes(prompt), "[1, 2, 3]") << option;
    }
}

// Whole or not at all, under a name that nobody writes.
TEST_F(Output, APageIsWrittenBesideItsName) {
    const std::string page = dir.file("page.html"), other = dir.file("other.html"),
                      exported = "export " + recording + " --to html";
    std::ofstream(page) << "before";
    fs::create_hard_link(page, other);
    EXPECT_EQ(shell_all("ulimit -f 20; " ATTNSCOPE_BIN " " + exported + " --force -o " + page).code, 2);
    EXPECT_EQ(read_bytes(page), "before");
    EXPECT_EQ(run(exported + " --force -o " + page).code, 0);
    EXPECT_EQ(read_bytes(other), "before") << "another name of the same file";
    const Answer busy =
        shell_all("flock -x " + recording + ".attn sh -c '" ATTNSCOPE_BIN " " + exported + " --force -o " + recording +
                  ".attn'"); // flock(1) makes the file, and holds it as a writer does
    EXPECT_EQ(busy.code, 2) << busy.output;
    for (const std::string& command :
         {exported, "export " + recording + " --to headvis", "export " + recording + " --to npy"})
        EXPECT_EQ(shell_all("cd " + dir.path().string() + " && " ATTNSCOPE_BIN " " + command + " -o ''").code, 2)
            << command;
}

TEST_F(Output, AFolderThatHoldsAnythingIsNotWrittenInto) {
    const std::string folder = dir.file("folder"), exported = "export " + recording + " --to ";
    for (const std::string& command :
         {exported + "npy -o " + folder, exported + "halo-weave -o " + folder, "filter " + recording + " -o " + folder,
          "reproduce -m " + model + " -t 1 -n 2 --ignore-eos -o " + folder}) {
        fs::create_directory(folder);
        std::ofstream(folder + "/token_00099.npy") << "another's";
        for (const char* force : {"", " --force"}) {
            if (*force && command.starts_with("filter")) continue; // which has none
            const Answer refused = run(command + force);
            EXPECT_EQ(refused.code, 2) << command << ": " << refused.output;
            EXPECT_NE(refused.output.find(folder + " exists and is not an empty folder"), std::string::npos)
                << command << ": " << refused.output;
        }
        EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << command;
        fs::remove_all(folder);
        EXPECT_EQ(run(command).code, 0) << command;
        fs::remove_all(folder);
        fs::remove(folder + ".attn");
        fs::create_directory(folder);
        EXPECT_EQ(run(command).code, 0) << command << ", into an empty one";
        fs::remove_all(folder);
        fs::remove(folder + ".attn");
    }
}

TEST_F(Output, ReproduceReplacesNoRecordingBesideItsFolder) {
    const std::string command = "reproduce -m " + model + " -t 1 -n 2 --ignore-eos -o " + dir.file("r");
    fs::copy_file(recording, dir.file("r.attn"));
    const std::string before = read_bytes(recording);
    const Answer refused = run(command);
    EXPECT_EQ(refused.code, 2);
    EXPECT_NE(refused.output.find("r.attn exists; choose another name"), std::string::npos) << refused.output;
    EXPECT_EQ(read_bytes(dir.file("r.attn")), before);
    EXPECT_FALSE(fs::exists(dir.file("r"))) << "nothing was begun";
    EXPECT_EQ(run(command + " --force").code, 0);
    EXPECT_NE(read_bytes(dir.file("r.attn")), before);
}

TEST_F(Output, WhereThereIsNoFolderTheUsersOwnNameIsTold) {
    for (const std::string& command :
         {std::string("models make -o /nosuch/x.gguf"), "export " + recording + " --to html -o /nosuch/x.gguf",
          "export " + recording + " --to npy --padded -o /nosuch/x.gguf",
          "diagnose " + recording + " --html /nosuch/x.gguf"}) {
        const Answer refused = run(command);
        EXPECT_EQ(refused.code, 2) << command;
        EXPECT_EQ(refused.output, "error: cannot write /nosuch/x.gguf: no folder /nosuch to write into\n") << command;
    }
}
