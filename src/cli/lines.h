// Sentences in lines that a person's terminal holds.
#pragma once

#include <cstdio>
#include <string>

namespace attnscope::cli {

inline constexpr size_t page_width = 80;

// `text` broken at spaces. It begins in column `indent` of its first line, and the lines that follow begin with as many spaces. A word that
// is longer than a line stays whole.
std::string wrapped(const std::string& text, size_t indent);

// The same where `file` is a terminal. Elsewhere a sentence stays one line, which programs look for.
std::string for_reader(std::FILE* file, const std::string& text, size_t indent);

} // namespace attnscope::cli
