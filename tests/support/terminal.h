// A command as a person sees it: its output and its errors are a terminal.
#pragma once

#include "support/shell.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace attnscope::test {

// Code -1: there are no terminals here.
inline Answer on_terminal(const std::string& command) {
    Answer answer;
    const int ours = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (ours < 0) return answer;
    const char* name = grantpt(ours) == 0 && unlockpt(ours) == 0 ? ptsname(ours) : nullptr;
    const int theirs = name ? open(name, O_RDWR | O_NOCTTY) : -1;
    const pid_t child = theirs < 0 ? -1 : fork();
    if (child == 0) {
        for (int fd = 0; fd <= 2; ++fd) dup2(theirs, fd);
        execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
        _exit(127);
    }
    if (theirs >= 0) close(theirs);
    std::array<char, 4096> buffer{};
    for (ssize_t n = 0; child > 0 && (n = read(ours, buffer.data(), buffer.size())) > 0;)
        answer.output.append(buffer.data(), static_cast<size_t>(n));
    close(ours);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return answer;
    answer.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    answer.output.erase(std::remove(answer.output.begin(), answer.output.end(), '\r'), answer.output.end());
    return answer;
}

} // namespace attnscope::test
