// Prompts that no context of llama-server holds, found out before they are read into memory or cut into tokens: of 45 MB of ids that
// took ten seconds and a gigabyte, of 30 MB of text seventeen, for an answer of one line.
#pragma once

#include "server/front/llama_program.h"

#include <attnscope/error.h>

#include <string>

namespace attnscope::server {

// invalid_argument: the array under `name` in this JSON holds more ids than fit. Reads no further than so many. A short body is not
// looked into; `n_ctx`: of a slot, 0: it is asked where it is needed.
Result<void> check_n_ids(const LlamaProgram& program, const std::string& body, const char* name, int32_t n_ctx = 0);
// invalid_argument: this text, or the texts in this array, are longer than the longest tokens that fit.
Result<void> check_length(const LlamaProgram& program, const OrderedJson& prompt);

} // namespace attnscope::server
