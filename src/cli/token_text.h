// Text of tokens for terminals: pieces may end in the middle of a character, and recordings come from strangers.
#pragma once

#include <string>
#include <vector>

namespace attnscope::cli {

// Replaces control characters (but not line breaks and tabs) and broken UTF-8 by U+FFFD, so that a recording cannot
// speak to the terminal.
std::string printable(const std::string& text);
// The same in one line: line breaks and tabs become visible escapes.
std::string one_line(const std::string& text);

// Consecutive tokens whose pieces together are whole characters.
struct TextRun {
    size_t first = 0, last = 0; // tokens [first, last]
    std::string text;           // printable
};
std::vector<TextRun> text_runs(const std::vector<std::string>& pieces);

} // namespace attnscope::cli
