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
    std::string begins; // first_words()
};

// With which words somebody began: those of a chat's first user, where its template has a mark for them, else of the text. For a terminal.
std::string first_words(Recording& recording);

void print_lines(const std::vector<InfoLine>& lines);

} // namespace attnscope::cli
