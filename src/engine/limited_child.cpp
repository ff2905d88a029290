#include "engine/limited_child.h"

#include "engine/deep_stack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
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

constexpr std::chrono::milliseconds look_every{50}; // after limits, and whether anybody still waits
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

// What waiting for a child came to.
enum class Waited { answered, too_much_cpu, too_long, given_up };

void write_all(int fd, const std::string& text) {
    for (size_t done = 0; done < text.size();) {
        const ssize_t n = write(fd, text.data() + done, text.size() - done);
        if (n <= 0) return;
        done += size_t(n);
    }
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

[[noreturn]] void be_child(int fd, const std::function<std::string()>& work) {
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
        if (pages > 0) limit(RLIMIT_AS, pages * size_t(sysconf(_SC_PAGESIZE)) + stack_bytes + memory_bytes);
    }
    // Connections and locks of the parent would otherwise stay open as long as we do.
    dup2(fd, 3);
    syscall(SYS_close_range, 4U, ~0U, 0U);
    const Result<void> ran = run_on_deep_stack(stack_bytes / 1024, [&] { tell(3, work); });
    _exit(ran ? 0 : 1);
}

// Processor time that a child of this process has taken; 0 where the system does not say.
std::chrono::milliseconds cpu_used(pid_t child) {
    clockid_t clock;
    timespec t{};
    if (clock_getcpuclockid(child, &clock) != 0 || clock_gettime(clock, &t) != 0) return {};
    return std::chrono::seconds(t.tv_sec) + std::chrono::milliseconds(t.tv_nsec / 1000000);
}

// "5", "0.3": the nearest tenth.
std::string seconds_text(std::chrono::milliseconds time) {
    const auto tenths = (time.count() + 50) / 100;
    return tenths % 10 == 0 ? fmt::format("{}", tenths / 10) : fmt::format("{}.{}", tenths / 10, tenths % 10);
}

// Waits until there is something to read from `end` (or it was closed), the child has computed for `cpu`, `until` has come, or
// nobody wants it any more. The child goes on in any case.
Waited wait_for_child(int end, pid_t child, std::chrono::milliseconds cpu, std::chrono::steady_clock::time_point until,
                      const GivenUp& given_up) {
    while (true) {
        if (given_up && given_up()) return Waited::given_up;
        if (std::chrono::steady_clock::now() >= until) return Waited::too_long;
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        pollfd p{end, POLLIN, 0};
        const int n = poll(&p, 1, static_cast<int>(std::clamp(left, std::chrono::milliseconds(0), look_every).count()));
        if (n > 0) return Waited::answered;
        if (n < 0 && errno != EINTR) return Waited::too_long;
        if (cpu_used(child) > cpu) return Waited::too_much_cpu;
    }
}

} // namespace

Result<std::string> run_limited(const std::string& name, const std::function<std::string()>& work,
                                const ChildLimits& limits, const GivenUp& given_up) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return Error{ErrorKind::io, "no pipe could be made: too many open files"};
    const pid_t child = fork();
    if (child == 0) be_child(ends[1], work);
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return Error{ErrorKind::io, "no process could be started: too many processes, or no memory"};
    }
    std::string out;
    bool too_large = false;
    Waited how = Waited::answered;
    const auto until = std::chrono::steady_clock::now() + limits.wall;
    while (true) {
        how = wait_for_child(ends[0], child, limits.cpu, until, given_up);
        if (how != Waited::answered) break;
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
    const std::chrono::milliseconds used = cpu_used(child);
    if (how != Waited::answered || too_large) kill(child, SIGKILL);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    const auto no = [&](const std::string& why) { return Error{ErrorKind::unsupported, name + " " + why}; };
    if (how == Waited::given_up) return Error{ErrorKind::engine, name + " was given up"};
    if (how == Waited::too_much_cpu)
        return no(fmt::format("takes more than {} seconds of processor time", seconds_text(limits.cpu)));
    if (how == Waited::too_long)
        return no(fmt::format("does not end within {} seconds, in which it computed for {}", seconds_text(limits.wall),
                              seconds_text(used)));
    if (too_large) return no(fmt::format("writes more than {} MiB", most_bytes >> 20));
    if (out.empty()) return no("ends llama.cpp's engine (endless recursion, or too much memory)");
    if (out.front() == 'e') return Error{ErrorKind::invalid_argument, name + " fails: " + out.substr(1)};
    return out.substr(1);
}

} // namespace attnscope::engine
