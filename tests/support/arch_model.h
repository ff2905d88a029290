// A tiny model of an architecture, made and saved by llama.cpp itself.
#pragma once

#include <string>

namespace attnscope::test {

// Writes FOLDER/NAME.gguf of each architecture in `names` (separated by spaces; empty: of all). False: one could not be made.
bool make_arch_models(const std::string& program, const std::string& folder, const std::string& names);

} // namespace attnscope::test
