// Commands as a person types them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <sys/wait.h>

namespace attnscope::test {

struct Answer {
    int code = -1;
    std::string output;
};

inline Answer shell(const std::string& command) {
    Answer answer;
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) return answer;
    std::array<char, 4096> buffer{};
    while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) answer.output.append(buffer.data(), n);
    const int status = pclose(pipe);
    answer.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return answer;
}

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
