#include "cli/engine_abort.h"

#include "cli/verbs.h"

#include <attnscope/recording.h>

#include <ggml.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include <unistd.h>

namespace attnscope::cli {

namespace {

void on_abort(const char* message) {
    if (std::strstr(message, "Remote RPC server")) {
        std::fputs("\nerror: an RPC server stopped answering (it died, or the network to it did)\n", stderr);
    } else {
        std::fprintf(stderr, "\nerror: llama.cpp cannot go on: %s\n", message);
    }
    // The writer's thread still runs.
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * WriterOptions{}.commit_interval_ms));
    std::fputs("what was recorded is safe: the recording opens, marked incomplete\n", stderr);
    std::fflush(stdout);
    _exit(exit_failed);
}

} // namespace

void explain_engine_aborts() { ggml_set_abort_callback(on_abort); }

} // namespace attnscope::cli
