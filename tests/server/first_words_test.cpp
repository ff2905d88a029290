// The words by which the page's lists tell texts apart.
#include "server/view/first_words.h"

#include <gtest/gtest.h>

using namespace attnscope::server;

namespace {

TEST(FirstWords, AreThoseOfTheLastTurnOfTheUser) {
    EXPECT_EQ(
        last_turn(
            "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nYes?"
            "<|im_end|>\n<|im_start|>user\nWhat is\nbread?<|im_end|>\n<|im_start|>assistant\nFood"),
        "What is\nbread?");
    EXPECT_EQ(last_turn("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"), "Hi");
    EXPECT_EQ(last_turn("<bos><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\nYes"), "Hi there");
    EXPECT_EQ(last_turn("<s>[INST] One [/INST] two</s>[INST] Three [/INST]"), "Three ");
    EXPECT_EQ(last_turn("<|user|>\nHi<|end|>\n<|assistant|>\n"), "Hi");
}

// What is not marked, or not in a way that is known, is not guessed.
TEST(FirstWords, WithoutAMarkedTurnAreThoseOfTheText) {
    EXPECT_FALSE(last_turn("The capital of France is"));
    EXPECT_FALSE(last_turn("User: hello\nAssistant:"));
    EXPECT_FALSE(last_turn("<|im_start|>user\n<|im_end|>")); // says nothing
    EXPECT_FALSE(last_turn(""));
    EXPECT_EQ(without_marks("<s> The sea"), "The sea");
    EXPECT_EQ(without_marks("<|begin_of_text|>\n<|x|>Hi<|eot_id|>there"), "Hi");
    EXPECT_EQ(without_marks("Hi there<|im_end|>\n<|im_start|>assistant"), "Hi there"); // goes on within a turn
    EXPECT_EQ(without_marks("a <| b"), "a <| b");
    EXPECT_EQ(without_marks("<|im_start|><|im_end|>"), "");
}

TEST(FirstWords, AMarkIsNothingElse) {
    for (const char* mark : {"<|im_start|>", "<s>", "</s>", "<|endoftext|>", "<eos>"})
        EXPECT_TRUE(is_mark(mark)) << mark;
    for (const char* other : {"", "a", "<|im_start|>a", "<", "<|", "|>", "<b>"}) EXPECT_FALSE(is_mark(other)) << other;
}

} // namespace
