// Sentences on a terminal: lines of at most 80 letters. Elsewhere a sentence is one line, which programs look for.
#include "support/shell.h"
#include "support/temp_dir.h"
#include "support/terminal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>

using namespace attnscope::test;

namespace {

const std::string program = ATTNSCOPE_BIN;

// The same words, whatever lies between them.
std::string words_of(const std::string& text) {
    std::istringstream in(text);
    std::string all;
    for (std::string word; in >> word;) all += word + " ";
    return all;
}

size_t longest_line(const std::string& text) {
    std::istringstream in(text);
    size_t longest = 0;
    for (std::string line; std::getline(in, line);) longest = std::max(longest, line.size());
    return longest;
}

bool no_terminals() {
    return on_terminal("true").code != 0;
}

} // namespace

TEST(OnATerminal, SentencesOfAttachAreWrapped) {
    if (no_terminals()) GTEST_SKIP() << "there are no terminals here";
    const TempDir dir;
    for (const std::string& command :
         {program + " attach --check sh", program + " attach -o " + dir.path().string() + " -- true",
          program + " attach -o " + dir.path().string() + " -- sh -c 'exit 7'"}) {
        const Answer plain = shell_all(command), seen = on_terminal(command);
        EXPECT_EQ(seen.code, plain.code) << command;
        EXPECT_EQ(std::count(plain.output.begin(), plain.output.end(), '\n'), 1) << plain.output;
        EXPECT_LE(longest_line(seen.output), 80u) << seen.output;
        EXPECT_EQ(words_of(seen.output), words_of(plain.output)) << command;
    }
}

TEST(OnATerminal, ErrorsAndWarningsAreWrapped) {
    if (no_terminals()) GTEST_SKIP() << "there are no terminals here";
    const TempDir dir;
    const std::string bert = dir.file("bert.gguf");
    ASSERT_EQ(shell_all(program + " models make --arch bert -o " + bert).code, 0);
    for (const std::string& command :
         {program + " serve -m such", program + " serve -m " + bert,
          program + " capture --no-such-option -p x -o y -m z",
          program + " attach --no-such-option --nor-this-one --and-not-this-one-either -- sh -c true",
          program + " attach -q --serve 127.0.0.1:0 --to 127.0.0.1:9 -- sh -c 'exit 0' -kvu -np 2 --cache-ram 512"}) {
        const Answer plain = shell_all(command), seen = on_terminal(command);
        EXPECT_EQ(seen.code, plain.code) << command;
        EXPECT_GT(longest_line(plain.output), 80u) << "not wrapped where programs read: " << plain.output;
        EXPECT_LE(longest_line(seen.output), 80u) << seen.output;
        EXPECT_EQ(words_of(seen.output), words_of(plain.output)) << command;
    }
}

TEST(OnATerminal, WhatInfoSaysIsWrapped) {
    if (no_terminals()) GTEST_SKIP() << "there are no terminals here";
    const TempDir dir;
    const std::string model = dir.file("m.gguf"), recording = dir.file("x.attn");
    ASSERT_EQ(shell_all(program + " models make --layers 3 -o " + model).code, 0);
    ASSERT_EQ(shell_all(program + " capture -m " + model + " -t 1 -p abc -n 2 -o " + recording).code, 0);
    const Answer plain = shell_all(program + " info " + recording), seen = on_terminal(program + " info " + recording);
    EXPECT_EQ(seen.code, 0);
    EXPECT_GT(longest_line(plain.output), 300u) << "the settings stay one JSON object";
    EXPECT_NE(plain.output.find("{\"cache_type_k\":\"f16\","), std::string::npos) << plain.output;
    EXPECT_LE(longest_line(seen.output), 80u) << seen.output;
    const auto squeezed = [](std::string text) {
        text.erase(std::remove_if(text.begin(), text.end(), [](char c) { return c == ' ' || c == '\n'; }), text.end());
        return text;
    };
    EXPECT_EQ(squeezed(seen.output), squeezed(plain.output));
}
