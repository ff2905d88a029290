#include "cli/engine_abort.h"

#include "cli/verbs.h"

#include <attnscope/recording.h>

#include <ggml.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <thread>

#include <unistd.h>

namespace attnscope::cli {

namespace {

std::atomic<bool> records{false}; // the callback has no argument that could carry it

void on_abort(const char* message) {
    if (std::strstr(message, "Remote RPC server")) {
        std::fputs("\nerror: an RPC server stopped answering (it died, or the network to it did)\n", stderr);
    } else {
        std::fprintf(stderr, "\nerror: llama.cpp cannot go on: %s\n", message);
    }
    if (!records) _exit(exit_failed);
    // The writer's thread still runs.
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * WriterOptions{}.commit_interval_ms));
    std::fputs("what was recorded is safe: the recording opens, marked incomplete\n", stderr);
    std::fflush(stdout);
    _exit(exit_failed);
}

} // namespace

namespace {

// Only what a signal handler may call.
extern "C" void on_bus_error(int) {
    constexpr char what[] = "\nerror: a file in use, such as the model, was cut short or cannot be read any more\n";
    constexpr char safe[] = "what was recorded is safe: the recording opens, marked incomplete\n";
    (void)!write(STDERR_FILENO, what, sizeof what - 1);
    timespec wait{0, 3L * WriterOptions{}.commit_interval_ms * 1000000L}; // the writer's thread still runs
    wait.tv_sec = wait.tv_nsec / 1000000000L;
    wait.tv_nsec %= 1000000000L;
    nanosleep(&wait, nullptr);
    if (records) (void)!write(STDERR_FILENO, safe, sizeof safe - 1);
    _exit(exit_failed);
}

} // namespace

void explain_bus_errors() {
    std::signal(SIGBUS, on_bus_error);
}

void recording_has_begun() {
    records = true;
}

void explain_engine_aborts() {
    ggml_set_abort_callback(on_abort);
}

} // namespace attnscope::cli
