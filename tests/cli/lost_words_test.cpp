// What a verb says to a person and nobody can be told (a closed pipe, a full disk): it is lost, and the work goes on.
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <string>

#include <unistd.h>

using namespace attnscope::test;

namespace {

class LostWords : public testing::Test {
protected:
    void SetUp() override {
        if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "there is no /dev/full";
        const Answer made = shell_all(program + " models make --layers 3 -o " + dir.file("m.gguf"));
        ASSERT_EQ(made.code, 0) << made.output;
    }
    const std::string program = ATTNSCOPE_BIN;
    TempDir dir;
    const std::string nowhere[2] = {" 2>/dev/full", " 2>&-"};
};

} // namespace

TEST_F(LostWords, AServerGoesOnServing) {
    const bool engine = access(ATTNSCOPE_LLAMA_SERVER, X_OK) == 0;
    for (const std::string& way : {std::string(" --in-process"), std::string()}) {
        if (way.empty() && !engine) continue;
        for (const std::string& where : nowhere) {
            const Answer served = shell("timeout --preserve-status -s TERM 6 " + program +
                                        " serve -t 1 --port 0 --host 0.0.0.0 -m " + dir.file("m.gguf") + way + where);
            EXPECT_EQ(served.code, 0) << way << where;
            EXPECT_NE(served.output.find("listening on http://"), std::string::npos) << way << where;
        }
    }
}

TEST_F(LostWords, AnAttachedProgramEndsAsItWould) {
    for (const std::string& where : nowhere) {
        EXPECT_EQ(
            shell(program + " attach --serve 127.0.0.1:0 --to 127.0.0.1:1 -- sh -c 'sleep 0.3; exit 7'" + where).code,
            7)
            << where;
        EXPECT_EQ(shell(program + " attach -o " + dir.path().string() + " -- sh -c 'exit 7'" + where).code, 7) << where;
    }
}

TEST_F(LostWords, ARecordingIsWrittenAndExported) {
    for (const std::string& where : nowhere) {
        const std::string recording = dir.file("x.attn");
        EXPECT_EQ(shell(program + " capture -m " + dir.file("m.gguf") + " -t 1 -p abc -n 4 --force -o " + recording +
                        " > /dev/null" + where)
                      .code,
                  0)
            << where;
        EXPECT_EQ(shell(program + " verify " + recording + " > /dev/null" + where).code, 0) << where;
        EXPECT_EQ(shell(program + " export " + recording + " --to html --force -o " + dir.file("x.html") + where).code,
                  0)
            << where;
    }
}
