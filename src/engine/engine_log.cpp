#include "engine/engine_log.h"

#include <llama.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <utility>

namespace attnscope::engine {

namespace {

// llama_log_set takes one callback for the whole process, hence the state here.
std::mutex mutex;
std::string complaint;
std::atomic<bool> silent{true};

void log(ggml_log_level level, const char* text, void*) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        constexpr size_t most = 1000; // of a loop that complains
        const std::lock_guard lock(mutex);
        std::string line = text;
        while (!line.empty() && line.back() == '\n') line.pop_back();
        const bool said = complaint.find(line) != std::string::npos;
        if (!line.empty() && !said && complaint.size() + line.size() <= most)
            complaint += (complaint.empty() ? "" : "; ") + line;
    }
    if (!silent) std::fputs(text, stderr);
}

} // namespace

void set_engine_log(bool quiet) {
    silent = quiet;
    llama_log_set(log, nullptr);
}

std::string take_engine_complaint() {
    const std::lock_guard lock(mutex);
    return std::exchange(complaint, {});
}

} // namespace attnscope::engine
