#include "base/run_program.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace attnscope::base {
namespace {

constexpr size_t output_kept = 8192;

std::vector<std::string> child_environment(const ProgramRun& run) {
    std::vector<std::string> all;
    for (char** e = environ; *e != nullptr; ++e) {
        const std::string entry = *e;
        bool replaced = false;
        for (const auto& [key, value] : run.environment) replaced = replaced || entry.starts_with(key + "=");
        if (!replaced) all.push_back(entry);
    }
    for (const auto& [key, value] : run.environment) all.push_back(fmt::format("{}={}", key, value));
    return all;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
    std::vector<char*> list;
    for (std::string& s : strings) list.push_back(s.data());
    list.push_back(nullptr);
    return list;
}

// Reads until the program closes its end.
void drain(int fd, const std::function<void()>& tick, std::string& output) {
    std::array<char, 4096> buffer;
    while (true) {
        pollfd wait{fd, POLLIN, 0};
        const int ready = poll(&wait, 1, 500);
        if (ready < 0 && errno != EINTR) return;
        if (tick) tick();
        if (ready <= 0) continue;
        const ssize_t n = read(fd, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        output.append(buffer.data(), size_t(n));
        if (output.size() > output_kept) output.erase(0, output.size() - output_kept);
    }
}

} // namespace

Result<ProgramEnd> run_program(const ProgramRun& run) {
    std::vector<std::string> argv = run.argv;
    if (argv.empty()) return Error{ErrorKind::invalid_argument, "no program to run was named"};
    std::vector<std::string> environment = child_environment(run);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return Error{ErrorKind::io, fmt::format("cannot make a pipe for {}: {}", argv[0], std::strerror(errno))};
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    pid_t pid = 0;
    const int failed =
        posix_spawnp(&pid, argv[0].c_str(), &actions, nullptr, pointers(argv).data(), pointers(environment).data());
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (failed != 0) {
        close(ends[0]);
        const ErrorKind kind = failed == ENOENT ? ErrorKind::not_found : ErrorKind::io;
        return Error{kind, fmt::format("cannot run {}: {}", argv[0], std::strerror(failed))};
    }
    ProgramEnd end;
    drain(ends[0], run.tick, end.output);
    close(ends[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno == EINTR) continue;
        return Error{ErrorKind::io, fmt::format("lost sight of {}: {}", argv[0], std::strerror(errno))};
    }
    end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return end;
}

} // namespace attnscope::base
