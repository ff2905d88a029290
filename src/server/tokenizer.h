// Texts of strangers into tokens.
#pragma once

#include "server/service.h"

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::server {

// The longest text that is tokenised, in bytes.
constexpr size_t max_text = size_t(1) << 20;

// As Session::tokenize. invalid_argument where the text is longer than max_text.
// llama.cpp cuts the texts of some vocabularies with std::regex, which recurses once for every character of a match: a
// long run of letters would overflow an ordinary stack. So this runs on a thread with a stack for max_text of them.
Result<std::vector<int32_t>> tokenize_text(const Service& service, const std::string& text, bool add_special, bool parse_special);

} // namespace attnscope::server
