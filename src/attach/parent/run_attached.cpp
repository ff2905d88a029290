#include "attach/parent/run_attached.h"

#include "attach/parent/attached_settings.h"
#include "attach/parent/error_lines.h"
#include "attach/parent/inbox.h"
#include "attach/parent/rests.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <sstream>
#include <utility>

#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace attnscope::attach {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::milliseconds rest_untold{5};       // when the program ends
constexpr std::chrono::milliseconds not_over_at_once{50}; // a program that only tells its version has ended by then
constexpr std::chrono::seconds patience_at_end{2}; // of a program that is a part of ours, for what it still has in hand

// Signal handlers can only reach globals.
volatile sig_atomic_t to_pass_on = 0;
extern "C" void pass_on(int signal) {
    to_pass_on = signal;
}

// Of interrupts: the terminal's came to the program, too, which is of its group; what somebody sends came to us alone.
extern "C" void pass_on_if_sent(int signal, siginfo_t* info, void*) {
    if (info->si_code <= 0) to_pass_on = signal;
}

// While it lives an interrupt of the terminal is the program's affair, and what is sent to us to end it is passed on to it.
class Signals {
public:
    explicit Signals(bool ours) {
        to_pass_on = 0;
        struct sigaction all {};
        all.sa_handler = pass_on;
        struct sigaction sent {};
        sent.sa_sigaction = pass_on_if_sent;
        sent.sa_flags = SA_SIGINFO;
        sigaction(SIGINT, ours ? &all : &sent, &interrupt_), sigaction(SIGQUIT, ours ? &all : &sent, &quit_);
        sigaction(SIGTERM, &all, &terminate_), sigaction(SIGHUP, &all, &hang_up_);
        if (hang_up_.sa_handler == SIG_IGN) sigaction(SIGHUP, &hang_up_, nullptr); // nohup
        struct sigaction usual {};
        usual.sa_handler = SIG_DFL;
        sigaction(SIGCHLD, &usual, &child_); // where it is ignored nobody learns how the program ended
    }
    ~Signals() {
        sigaction(SIGINT, &interrupt_, nullptr), sigaction(SIGQUIT, &quit_, nullptr);
        sigaction(SIGTERM, &terminate_, nullptr), sigaction(SIGHUP, &hang_up_, nullptr);
        sigaction(SIGCHLD, &child_, nullptr);
    }
    Signals(const Signals&) = delete;
    Signals& operator=(const Signals&) = delete;

private:
    struct sigaction interrupt_ {
    }, quit_{}, terminate_{}, hang_up_{}, child_{};
};

// Ours in front of what was there already. `library`: empty where it stays out.
std::vector<std::string> environment(const std::string& library, const std::string& folder) {
    std::vector<std::string> all;
    if (library.empty()) {
        for (char** e = environ; *e; ++e) all.emplace_back(*e);
        return all;
    }
    std::string preload = "LD_PRELOAD=" + library;
    for (char** e = environ; *e; ++e) {
        const std::string_view entry = *e;
        if (entry.rfind("LD_PRELOAD=", 0) == 0) {
            if (entry.size() > 11) preload.append(":").append(entry.substr(11));
        } else if (entry.rfind("ATTNSCOPE_ATTACH=", 0) != 0) {
            all.emplace_back(entry);
        }
    }
    all.push_back(std::move(preload));
    all.push_back("ATTNSCOPE_ATTACH=" + folder);
    return all;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
    std::vector<char*> p;
    for (std::string& s : strings) p.push_back(s.data());
    p.push_back(nullptr);
    return p;
}

Result<pid_t> start(const std::string& program, std::vector<std::string> argv, std::vector<std::string> env) {
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    // What we and the command line ignore is not the program's to inherit; hanging up is ignored by whoever started us.
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int s : {SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGXFSZ}) sigaddset(&defaults, s);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    pid_t pid = 0;
    const int failed =
        posix_spawn(&pid, program.c_str(), nullptr, &attributes, pointers(argv).data(), pointers(env).data());
    posix_spawnattr_destroy(&attributes);
    if (failed != 0) return Error{ErrorKind::io, "cannot start " + program + ": " + std::strerror(failed)};
    return pid;
}

// The same of a program that is a part of ours. Behind fork() only what is safe there: other threads may run. `errors`: its standard
// error; below 0: ours.
Result<pid_t> start_ours(const std::string& program, std::vector<std::string> argv, std::vector<std::string> env,
                         int errors) {
    const std::vector<char*> arguments = pointers(argv), variables = pointers(env);
    const pid_t parent = getpid(), pid = fork();
    if (pid < 0) return Error{ErrorKind::io, "cannot start " + program + ": " + std::strerror(errno)};
    if (pid > 0) return pid;
    setpgid(0, 0);
    for (const int s : {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ}) std::signal(s, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    if (errors >= 0) dup2(errors, STDERR_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent) execve(program.c_str(), arguments.data(), variables.data());
    _exit(127);
}

// What the library in the program would take for its own default without a word.
Result<void> check_ring_size() {
    constexpr long most_mib = 16384;
    const char* given = std::getenv("ATTNSCOPE_RING_MIB");
    if (!given || !*given) return {};
    char* end = nullptr;
    const long mib = std::strtol(given, &end, 10);
    if (*end == '\0' && mib >= 1 && mib <= most_mib) return {};
    return Error{ErrorKind::invalid_argument,
                 fmt::format("ATTNSCOPE_RING_MIB={} is no number of MiB from 1 to {}", given, most_mib)};
}

// A program of ours that was started; nobody has asked for its exit status yet.
class Child {
public:
    explicit Child(pid_t pid) : descriptor_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {}
    ~Child() {
        if (descriptor_ >= 0) close(descriptor_);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    // Readable once it has ended; -1: the system has no such thing (before Linux 5.3).
    int descriptor() const { return descriptor_; }

private:
    int descriptor_;
};

} // namespace

Result<std::string> attach_library() {
    constexpr const char* name = "libattnscope_attach.so";
    if (const char* given = std::getenv("ATTNSCOPE_ATTACH_LIBRARY")) {
        if (fs::exists(given)) return fs::absolute(given).string();
        return Error{ErrorKind::not_found,
                     std::string("ATTNSCOPE_ATTACH_LIBRARY names ") + given + ", which is not there"};
    }
    std::error_code ec;
    const fs::path here = fs::read_symlink("/proc/self/exe", ec).parent_path();
    // In a build folder; where it is installed it lies with the engine's libraries, which are the last place.
    std::vector<fs::path> folders = {here / "../lib", here};
    Dl_info engine;
    if (dladdr(reinterpret_cast<const void*>(&llama_backend_init), &engine) != 0 && engine.dli_fname)
        folders.push_back(fs::path(engine.dli_fname).parent_path());
    for (const fs::path& at : folders) {
        if (fs::exists(at / name, ec)) return fs::weakly_canonical(at / name, ec).string();
    }
    return Error{ErrorKind::not_found,
                 fmt::format("{} is not beside {}: `make program` builds it; if it lies elsewhere, name it with "
                             "ATTNSCOPE_ATTACH_LIBRARY",
                             name, here.string())};
}

Result<std::string> find_program(const std::string& program) {
    if (program.find('/') != std::string::npos) {
        const bool may_run = access(program.c_str(), X_OK) == 0;
        const int why = errno;
        std::error_code error; // it may be gone by now
        if (may_run && fs::is_regular_file(program, error)) return program;
        const int what = fs::is_directory(program, error) ? EISDIR : EACCES; // as the system says of pipes and devices
        return Error{ErrorKind::not_found, program + ": " + std::strerror(may_run ? what : why)};
    }
    const char* path = std::getenv("PATH");
    std::istringstream folders(path ? path : "/usr/bin:/bin");
    for (std::string folder; std::getline(folders, folder, ':');) {
        const std::string at = (fs::path(folder) / program).string(); // an empty folder is this one
        std::error_code error;
        if (access(at.c_str(), X_OK) == 0 && fs::is_regular_file(at, error)) return at;
    }
    return Error{ErrorKind::not_found, "no program " + program + " in PATH"};
}

Result<AttachEnd> run_attached(const AttachOptions& options) {
    if (Result<void> r = check_ring_size(); !r) return r.error();
    Result<std::string> program = find_program(options.argv[0]);
    if (!program) return program.error();
    Result<std::string> library = options.capture ? attach_library() : std::string();
    if (!library) return library.error();
    const std::string settings = attached_settings(options.argv);
    EarlyTexts early(options.capture ? options.argv : std::vector<std::string>());
    const auto late = [](const AttachOptions& o) {
        return o.watched || o.listener ? ProgramRecorder::soon : ProgramRecorder::in_time;
    };
    const auto new_recorder = [&] {
        return std::make_unique<ProgramRecorder>(options.folder, settings, options.say, options.listener, &early,
                                                 late(options));
    };
    Result<std::unique_ptr<Inbox>> made = Inbox::create(new_recorder, options.say);
    if (!made) return made.error();
    Inbox& inbox = **made;

    std::unique_ptr<ErrorLines> errors;
    if (options.ours && options.errors) {
        Result<std::unique_ptr<ErrorLines>> opened = ErrorLines::open(options.errors);
        if (!opened) return opened.error();
        errors = std::move(*opened);
    }
    const Signals signals(options.ours);
    std::vector<std::string> variables = environment(*library, inbox.folder());
    Result<pid_t> pid =
        options.ours ? start_ours(*program, options.argv, std::move(variables), errors ? errors->for_program() : -1)
                     : start(*program, options.argv, std::move(variables));
    if (!pid) return pid.error();
    if (errors) errors->given();
    const Child child(*pid);
    AttachEnd end;
    Rests rests(inbox, options.watched || options.listener);
    auto asked = std::chrono::steady_clock::now();
    const auto started = asked;
    for (bool runs = true; runs || inbox.programs_live();) {
        if (std::chrono::steady_clock::now() - started > not_over_at_once) early.begin();
        if (const int signal = to_pass_on; signal != 0) {
            to_pass_on = 0;
            end.asked_to_end = true;
            if (!runs) break; // what the program has left behind is let alone
            if (options.listener) options.listener->asked_to_end();
            kill(*pid, options.ours ? SIGTERM : signal);
            asked = std::chrono::steady_clock::now();
        }
        if (options.ours && runs && end.asked_to_end && std::chrono::steady_clock::now() - asked > patience_at_end)
            kill(*pid, SIGKILL);
        if (errors) errors->take();
        int status = 0;
        const pid_t ended = runs ? waitpid(*pid, &status, WNOHANG) : 0;
        if (ended == *pid || (ended < 0 && errno == ECHILD)) {
            runs = false;
            inbox.look_for_rings(); // those of children that outlive it, too
            end.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        }
        if (rests.take()) continue;
        std::chrono::milliseconds most = rests.next();
        if (child.descriptor() < 0) most = std::min(most, rest_untold);
        const std::array calls{runs ? child.descriptor() : -1, inbox.wake_up().fd()};
        if (options.listener) {
            options.listener->all_taken(most, calls);
            inbox.wake_up().take();
        } else {
            rests.rest(most, std::span(calls).first(1));
        }
    }
    if (errors) errors->end();
    end.recorded = inbox.finish();
    end.any_scheduler = inbox.any_program();
    end.no_room = inbox.any_without_room();
    return end;
}

} // namespace attnscope::attach
