// What a program that is a part of ours says is heard by us, line by line and to its end.
#include "attach/parent/run_attached.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::attach;

namespace {

std::vector<std::string> heard_of(const std::string& script, bool ours = true) {
    std::vector<std::string> heard;
    AttachOptions options;
    options.argv = {"sh", "-c", script};
    options.ours = ours;
    options.capture = false;
    options.say = [](ProgramRecorder::About, const std::string&) {};
    options.errors = [&](const std::string& line) { heard.push_back(line); };
    const Result<AttachEnd> end = run_attached(options);
    EXPECT_TRUE(end && end->exit_code == 7) << (end ? std::to_string(end->exit_code) : end.error().message);
    return heard;
}

} // namespace

TEST(ErrorLines, AreHeardWholeAndInTheirOrder) {
    EXPECT_EQ(heard_of("printf 'o' >&2; sleep 0.05; printf 'ne\\n\\ntwo\\nthe last' >&2; exit 7"),
              (std::vector<std::string>{"one", "", "two", "the last"}));
    EXPECT_TRUE(heard_of("echo out; exit 7").empty()); // its output stays its own
}

// More than a pipe holds, and a line without an end.
TEST(ErrorLines, HoldNobodyUp) {
    const std::vector<std::string> many = heard_of(
        "i=0; while [ $i -lt 4000 ]; do echo \"line $i of a program that says much\" >&2; i=$((i+1)); done; exit 7");
    ASSERT_EQ(many.size(), 4000u);
    EXPECT_EQ(many.back(), "line 3999 of a program that says much");
    std::string all;
    for (const std::string& piece : heard_of("head -c 300000 /dev/zero | tr '\\0' x >&2; exit 7")) all += piece;
    EXPECT_EQ(all, std::string(300000, 'x'));
}

TEST(ErrorLines, AreNotTakenFromAProgramThatIsNotOurs) {
    EXPECT_TRUE(heard_of("exit 7", false).empty());
}
