// Texts of strangers into tokens.
#pragma once

#include "server/http/service.h"

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::server {

// The longest text that is tokenised, in bytes.
constexpr size_t max_text = size_t(1) << 20;

// As Session::tokenize, which takes address space for a stack of 1 KiB a byte. invalid_argument where the text is longer
// than max_text.
Result<std::vector<int32_t>> tokenize_text(const Service& service, const std::string& text, bool add_special,
                                           bool parse_special);

} // namespace attnscope::server
