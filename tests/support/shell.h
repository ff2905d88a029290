// Commands as a person types them.
#pragma once

#include <array>
#include <cstdio>
#include <string>

#include <sys/wait.h>

namespace attnscope::test {

struct Answer {
    int code = -1; // as a shell says it: 128 and the signal, where one ended the command
    std::string output;
};

// What the command prints; what it says on standard error goes where the test's goes.
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

// The same with standard error among the output.
inline Answer shell_all(const std::string& command) {
    return shell("exec 2>&1; " + command);
}

} // namespace attnscope::test
