// Whole files in and out of memory, for tests that damage them.
#pragma once

#include <string>
#include <string_view>

namespace attnscope::test {

std::string read_bytes(const std::string& path); // empty when it cannot be read
void write_bytes(const std::string& path, std::string_view bytes);

} // namespace attnscope::test
