// Which words of `attnscope serve` are its own, and which are llama-server's.
#pragma once

#include <attnscope/error.h>

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace attnscope::cli {

// What carries a word that is llama-server's: an option of `serve` that no help shows.
inline constexpr const char* engine_argument = "--engine-argument";

// `words`: behind "serve", in their order, llama.cpp's short names written out where `serve` has them. An option that `serve` does not
// know, with the words behind it that are no options, and everything behind "--" goes to llama-server, which says what is wrong
// with it. CLI11 alone would take "-tb 8" for "-t b".
std::vector<std::string> sort_serve_arguments(const CLI::App& serve, const std::vector<std::string>& words);

// Of llama-server's words: an error where one is certainly the value of no option, as a model that -m was forgotten before.
Result<void> no_stray_word(const std::vector<std::string>& words);

} // namespace attnscope::cli
