// Sentences on a terminal: lines of at most 80 letters. Elsewhere a sentence is one line, which programs look for.
#include "support/shell.h"
#include "support/temp_dir.h"
#include "support/terminal.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
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

// What is left to see of lines that were written over: on_terminal() takes the carriage returns away.
std::string shown(std::string output) {
    const std::string erase = "\x1b[K";
    for (size_t at; (at = output.find(erase)) != std::string::npos;) {
        const size_t line = output.rfind('\n', at) + 1; // 0 where there is none
        output.erase(line, at + erase.size() - line);
    }
    return output;
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

// Of the verbs whose sentences hold long names.
TEST(OnATerminal, WhatOtherVerbsSayIsWrapped) {
    if (no_terminals()) GTEST_SKIP() << "there are no terminals here";
    const TempDir dir;
    const std::string model = dir.file("a-model-with-a-name-of-some-length.gguf"), recording = dir.file("x.attn");
    ASSERT_EQ(shell_all(program + " models make --layers 3 -o " + model).code, 0);
    ASSERT_EQ(shell_all(program + " capture -m " + model + " -t 1 -p abc -n 2 --ignore-eos -o " + recording).code, 0);
    for (const std::string& command :
         {program + " models", program + " models check " + model, program + " verify " + recording,
          program + " show --top 3 --generated --hide-first " + recording,
          program + " export --force --to html -o " + dir.file("x.html") + " " + recording}) {
        const Answer plain = shell_all(command), seen = on_terminal(command);
        EXPECT_EQ(seen.code, 0) << seen.output;
        EXPECT_LE(longest_line(shown(seen.output)), 80u) << seen.output;
        EXPECT_EQ(words_of(shown(seen.output)), words_of(plain.output)) << command;
    }
}

TEST(OnATerminal, ReproduceIsWrappedAndItsTableHoldsWholeCharacters) {
    if (no_terminals()) GTEST_SKIP() << "there are no terminals here";
    const TempDir dir;
    const std::string model = dir.file("m.gguf");
    ASSERT_EQ(shell_all(program + " models make --layers 3 -o " + model).code, 0);
    const Answer seen =
        on_terminal(program + " reproduce -m " + model + " -t 1 -n 40 --all --ignore-eos -o " + dir.file("wrong"));
    EXPECT_EQ(seen.code, 0);
    std::istringstream in(shown(seen.output));
    for (std::string line; std::getline(in, line);) {
        const auto width = std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
        const bool table = line.find(" | ") != std::string::npos; // which is wider
        EXPECT_TRUE(table || width <= 80) << line;
        EXPECT_TRUE(std::none_of(line.begin(), line.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7F; }))
            << line;
        EXPECT_NO_THROW(nlohmann::json(line).dump()) << "broken UTF-8: " << line;
    }
}

// A line of progress is gone when the error is there.
TEST(OnATerminal, AnErrorStandsInALineOfItsOwn) {
    if (no_terminals()) GTEST_SKIP() << "there are no terminals here";
    const TempDir dir;
    const std::string model = dir.file("m.gguf");
    ASSERT_EQ(shell_all(program + " models make --layers 3 -o " + model).code, 0);
    const Answer full = on_terminal("ulimit -f 200; " + program + " capture -m " + model +
                                    " -t 1 --ignore-eos -c 4096 -n 1 -ub 64 -p \"$(yes a b c d | head -n 400)\" -o " +
                                    dir.file("x.attn"));
    EXPECT_EQ(full.code, 2) << full.output;
    std::istringstream in(shown(full.output));
    bool found = false;
    for (std::string line; std::getline(in, line);) {
        EXPECT_EQ(line.find("error: cannot", 1), std::string::npos) << line;
        found = found || line.rfind("error: ", 0) == 0;
    }
    EXPECT_TRUE(found) << full.output;
}

TEST(OnATerminal, VerifyTellsOnePercentageThatRises) {
    if (no_terminals()) GTEST_SKIP() << "there are no terminals here";
    const TempDir dir;
    const std::string model = dir.file("m.gguf"), recording = dir.file("x.attn");
    ASSERT_EQ(shell_all(program + " models make --layers 3 -o " + model).code, 0);
    ASSERT_EQ(shell_all(program + " capture -m " + model + " -t 1 -p abc -n 200 --ignore-eos -o " + recording).code, 0);
    const std::string said = on_terminal(program + " verify " + recording).output;
    int last = -1, n = 0;
    for (size_t at = 0; (at = said.find("checking: ", at)) != std::string::npos; ++n) {
        at += 10;
        const int percent = std::atoi(said.c_str() + at);
        EXPECT_GE(percent, last) << said;
        last = percent;
    }
    EXPECT_GT(n, 3) << said;
}
