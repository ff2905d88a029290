// Lets llama.cpp try a file in a child process, so that a crash there is a result and not the end of the
// test.
#pragma once

#include <string>
#include <vector>

namespace attnscope::test {

struct Trial {
    enum class End { loaded, refused, crashed };
    End end = End::crashed;
    int signal = 0;
    std::string last_words; // what llama.cpp said before it crashed
};

// Loads each file, tokenises a text and decodes tokens with flash attention off and on. Files go through one
// child process as long as it lives.
std::vector<Trial> try_in_engine(const std::vector<std::string>& files);

} // namespace attnscope::test
