// What hosts print, and what they leave.
#pragma once

#include "support/shell.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

namespace attnscope::test {

inline std::vector<int32_t> numbers(const std::string& text) {
    std::istringstream in(text);
    std::vector<int32_t> all;
    for (int32_t n = 0; in >> n;) all.push_back(n);
    return all;
}

inline std::vector<std::string> recordings(const std::filesystem::path& folder) {
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() == ".attn") all.push_back(entry.path().string());
    }
    std::sort(all.begin(), all.end());
    return all;
}

} // namespace attnscope::test
