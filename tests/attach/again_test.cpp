// A process that is attached from inside, more than once: what is recorded is what was decoded while somebody listened, and nothing else.
#include "attach/host_fixture.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

namespace {

class AttachAgain : public AttachHosts {};

TEST_F(AttachAgain, BegunTwiceAndBegunAgainAfterItsEnd) {
    const Answer answer = shell_all("python3 " ATTNSCOPE_ATTACH_AGAIN_HOST " " + program +
                                    " " ATTNSCOPE_ATTACH_HOST_MODULE " " + model + " " + out);
    ASSERT_EQ(answer.code, 0) << answer.output;
    const std::vector<Line> texts = printed(answer.output);
    ASSERT_EQ(texts.size(), 4u) << answer.output;
    const auto recorded = [&](const std::string& folder) {
        std::vector<Line> all;
        for (const std::string& path : recordings(folder)) {
            EXPECT_EQ(shell(program + " verify --all " + path + " 2>&1").code, 0) << path;
            auto recording = Recording::open(path);
            EXPECT_TRUE(recording && (*recording)->info().complete) << path;
            auto frames = (*recording)->frames(0, (*recording)->info().n_frames);
            Line line;
            for (const Frame& f : frames ? *frames : std::vector<Frame>()) line.push_back(f.token);
            all.push_back(line);
        }
        return all;
    };
    EXPECT_EQ(recorded(out + "-1"), std::vector<Line>{texts[0]});
    EXPECT_EQ(recorded(out + "-2"), std::vector<Line>{texts[3]}); // not the half of a text whose beginning nobody saw
    const std::string second = shell("cat " + out + "-2.said").output;
    EXPECT_NE(second.find("3 of 3 layers"), std::string::npos) << second;
}

// Of two around one program the inner one records.
TEST_F(AttachAgain, OneInTheOtherRecordsOnce) {
    const std::string host = ATTNSCOPE_ATTACH_HOST " " + model + " 10 1 11 27 3", inner = out + "-inner";
    const Answer plain = shell(host), attached = attach(program + " attach -o " + inner + " -- " + host);
    EXPECT_EQ(attached.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_TRUE(recordings(out).empty()) << said;
    ASSERT_EQ(recordings(inner).size(), 1u) << said;
    EXPECT_EQ(shell(program + " verify --all " + recordings(inner)[0]).code, 0);
}

} // namespace
