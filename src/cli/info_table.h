// attnscope info of several recordings: a line for each.
#pragma once

#include <attnscope/recording.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::cli {

struct InfoLine {
    std::string name;
    int64_t n_tokens = 0;
    std::string state;
    std::string words; // first_words()
};

// By which words the page tells the text from others: for a terminal.
std::string first_words(Recording& recording);

void print_lines(const std::vector<InfoLine>& lines);

} // namespace attnscope::cli
