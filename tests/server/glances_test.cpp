// What the page's list says of recordings that nobody has opened.
#include "recording/synthetic.h"
#include "server/view/glances.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::server;

namespace {

class GlancesTest : public testing::Test {
protected:
    // Of tokens with these texts, of which the last ones were generated.
    std::string record(const std::string& name, const std::vector<std::string>& pieces, size_t n_generated = 0) {
        const Geometry geometry = test::uniform_geometry({});
        std::string path = folder_.file(name);
        auto writer = RecordingWriter::create(path, test::make_info());
        if (!writer || !(*writer)->begin(geometry)) ADD_FAILURE() << name;
        for (size_t i = 0; writer && i < pieces.size(); ++i) {
            Frame frame = test::make_frame(geometry, static_cast<int64_t>(i));
            frame.token = static_cast<int32_t>(i);
            frame.kind = i + n_generated < pieces.size() ? FrameKind::prompt : FrameKind::generated;
            (*writer)->token_text(frame.token, pieces[i]);
            EXPECT_TRUE((*writer)->push(std::move(frame)));
        }
        EXPECT_TRUE(writer && (*writer)->close());
        return path;
    }
    Glance of(const std::string& path) { return Glances::List(glances_).of(path); }
    test::TempDir folder_;
    Glances glances_;
};

TEST_F(GlancesTest, AChatIsKnownByTheLastTurnOfItsUser) {
    const std::string path = record("chat.attn",
                                    {"<|im_start|>", "user\n", "Hello", "<|im_end|>", "\n", "<|im_start|>",
                                     "assistant\n", "Yes?", "<|im_end|>", "\n", "<|im_start|>", "user\n", "Who",
                                     " bakes?", "<|im_end|>", "\n", "<|im_start|>", "assistant\n", "Boris"},
                                    1);
    EXPECT_EQ(of(path).words, "Who bakes?");
    EXPECT_FALSE(of(path).warm_up);
}

TEST_F(GlancesTest, WhatIsCutStaysShort) {
    EXPECT_EQ(of(record("long.attn", {"The sea ", std::string(400, 'x')})).words, "The sea " + std::string(152, 'x'));
}

// What llama-server decodes before anybody asks: a token that begins a text and one that ends it.
TEST_F(GlancesTest, AWarmUpIsTwoMarksAndNothingElse) {
    EXPECT_TRUE(of(record("warm.attn", {"<|im_start|>", "<|im_end|>"})).warm_up);
    EXPECT_TRUE(of(record("llama2.attn", {"<s>", "</s>"})).warm_up);
    EXPECT_FALSE(of(record("asked.attn", {"<s>", "Hi"})).warm_up);
    EXPECT_FALSE(of(record("answered.attn", {"<s>", "</s>"}, 1)).warm_up);
    EXPECT_FALSE(of(record("one.attn", {"<s>"})).warm_up);
    EXPECT_FALSE(of(record("three.attn", {"<s>", "</s>", "<s>"})).warm_up);
}

TEST_F(GlancesTest, AFileIsLookedAtAgainWhenItIsAnother) {
    const std::string path = record("a.attn", {"one"});
    EXPECT_EQ(of(path).words, "one");
    EXPECT_EQ(of(path).words, "one");
    std::filesystem::remove(path);
    EXPECT_EQ(of(record("a.attn", {"another", " text"})).words, "another text");
    std::filesystem::remove(path);
    EXPECT_EQ(of(path).words, "another text"); // what was read stays
    EXPECT_EQ(of(folder_.file("never.attn")).words, "");
}

} // namespace
