#include "engine/limited_child.h"

#include "engine/deep_stack.h"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace attnscope::engine {

namespace {

constexpr std::chrono::seconds patience{10};
constexpr size_t stack_bytes = size_t(64) << 20, memory_bytes = size_t(1) << 30, most_bytes = size_t(64) << 20;

// Sanitizers reserve so much address space that a limit of it says nothing.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool limits_memory = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
constexpr bool limits_memory = false;
#else
constexpr bool limits_memory = true;
#endif
#else
constexpr bool limits_memory = true;
#endif

void limit(int resource, size_t bytes) {
    const rlimit l{bytes, bytes};
    setrlimit(static_cast<__rlimit_resource_t>(resource), &l);
}

void write_all(int fd, const std::string& text) {
    for (size_t done = 0; done < text.size();) {
        const ssize_t n = write(fd, text.data() + done, text.size() - done);
        if (n <= 0) return;
        done += size_t(n);
    }
}

[[noreturn]] void be_child(int fd, size_t memory, const std::function<void(int)>& work) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (const int s : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGINT, SIGTERM, SIGHUP}) std::signal(s, SIG_DFL);
    const int nothing = open("/dev/null", O_RDWR); // an abort of the engine prints pages
    for (const int f : {0, 1, 2}) dup2(nothing, f);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, 0);
    if (limits_memory) {
        size_t pages = 0;
        if (std::FILE* f = std::fopen("/proc/self/statm", "r")) {
            if (std::fscanf(f, "%zu", &pages) != 1) pages = 0;
            std::fclose(f);
        }
        if (pages > 0) limit(RLIMIT_AS, pages * size_t(sysconf(_SC_PAGESIZE)) + stack_bytes + memory);
    }
    // Connections and locks of the parent would otherwise stay open as long as we do.
    dup2(fd, 3);
    syscall(SYS_close_range, 4U, ~0U, 0U);
    const Result<void> ran = run_on_deep_stack(stack_bytes / 1024, [&] {
        try {
            work(3);
        } catch (...) { // the parent sees that no answer came
        }
    });
    _exit(ran ? 0 : 1);
}

// The first byte says what follows: 'g' the text, 'e' what was thrown.
void tell(int fd, const std::function<std::string()>& work) {
    std::string out;
    bool good = false;
    try {
        out = work();
        good = true;
    } catch (const std::exception& e) {
        out = e.what();
    } catch (...) {
        out = "an unknown error";
    }
    write_all(fd, good ? "g" : "e");
    write_all(fd, out);
}

} // namespace

pid_t fork_limited(int end, size_t memory, const std::function<void(int)>& work) {
    const pid_t child = fork();
    if (child == 0) be_child(end, memory, work);
    return child;
}

Result<std::string> run_limited(const std::string& name, const std::function<std::string()>& work) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return Error{ErrorKind::io, "no pipe could be made: too many open files"};
    const pid_t child = fork_limited(ends[1], memory_bytes, [&](int end) { tell(end, work); });
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return Error{ErrorKind::io, "no process could be started: too many processes, or no memory"};
    }
    std::string out;
    bool too_long = false, too_large = false;
    const auto until = std::chrono::steady_clock::now() + patience;
    while (true) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        pollfd p{ends[0], POLLIN, 0};
        const int ready = left.count() > 0 ? poll(&p, 1, static_cast<int>(left.count())) : 0;
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) {
            too_long = true;
            break;
        }
        char buffer[65536];
        const ssize_t n = read(ends[0], buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        out.append(buffer, size_t(n));
        if (out.size() > most_bytes) {
            too_large = true;
            break;
        }
    }
    close(ends[0]);
    if (too_long || too_large) kill(child, SIGKILL);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    const auto no = [&](const std::string& why) { return Error{ErrorKind::unsupported, name + " " + why}; };
    if (too_long) return no(fmt::format("does not end within {} seconds", patience.count()));
    if (too_large) return no(fmt::format("writes more than {} MiB", most_bytes >> 20));
    if (out.empty()) return no("ends llama.cpp's engine (endless recursion, or too much memory)");
    if (out.front() == 'e') return Error{ErrorKind::invalid_argument, name + " fails: " + out.substr(1)};
    return out.substr(1);
}

} // namespace attnscope::engine
