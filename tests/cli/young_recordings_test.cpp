// What verbs say of a recording that holds no token yet, while its writer lives and when it is gone.
#include "recording/synthetic.h"
#include "support/shell.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

using namespace attnscope;
using namespace attnscope::test;

namespace {

class YoungRecordings : public testing::Test {
protected:
    void expect(const std::string& arguments, int code, const std::string& words) {
        const Answer answer = shell_all(std::string(ATTNSCOPE_BIN) + " " + arguments);
        EXPECT_EQ(answer.code, code) << arguments << ": " << answer.output;
        EXPECT_NE(answer.output.find(words), std::string::npos) << arguments << ": " << answer.output;
        EXPECT_EQ(answer.output.find("NOT good"), std::string::npos) << arguments << ": " << answer.output;
    }
    void expect_of_none(const std::string& yet, const std::string& state) {
        expect("verify " + path, 1, path + ": it holds no tokens" + yet + ": there is nothing to verify" + state);
        expect("verify --json " + path, 1, "\"n_frames\": 0");
        expect("info " + path, 0,
               path + (state.empty() ? ", complete" : ", incomplete (the capture has not ended, or not properly)"));
        expect("show " + path, 2, "holds no tokens");
        for (const char* format : {"npy", "npy --padded", "safetensors", "halo-weave", "html", "headvis"})
            expect("export " + path + " --to " + format + " -o " + dir.file("out"), 2, "holds no tokens");
        EXPECT_FALSE(std::filesystem::exists(dir.file("out")));
    }
    const TempDir dir;
    const std::string path = dir.file("a.attn");
};

TEST_F(YoungRecordings, AreToldWithTheirWriterAndWithoutIt) {
    auto writer = RecordingWriter::create(path, make_info());
    ASSERT_TRUE(writer) << writer.error().message;
    const std::string state = " (incomplete: the capture has not ended, or not properly)";
    expect_of_none(" yet", state);
    expect("info " + path, 0, "attention    not known yet");
    ASSERT_TRUE((*writer)->begin(mixed_geometry()));
    expect_of_none(" yet", state);
    ASSERT_TRUE((*writer)->close());
    writer->reset();
    expect_of_none("", "");
}

TEST_F(YoungRecordings, AnEmptyFileIsRefusedWithTheReason) {
    std::ofstream{path};
    for (const char* verb : {"verify ", "info ", "show "})
        expect(verb + path, 2, "it is empty, as one is that was just begun, or whose writer was killed before");
    expect("view --no-browser " + path, 2, path + " is empty");
}

} // namespace
