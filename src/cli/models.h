// The verbs below `attnscope models`.
#pragma once

#include "cli/verbs.h"

#include <functional>

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace attnscope::cli {

// Adds `models make`; returns what it does when it was chosen, by its callback.
CLI::App* add_models_make(CLI::App& models, Action& action);

// One line on standard error that rewrites itself on a terminal; one line a stage elsewhere.
class ProgressLine {
public:
    void operator()(const std::string& stage, uint64_t done, uint64_t total) {
        if (isatty(STDERR_FILENO)) {
            std::fprintf(stderr, "\r\033[K%s", stage.c_str());
            if (total > 0) {
                std::fprintf(stderr, ": %llu of %llu MB", static_cast<unsigned long long>(done / 1000000),
                             static_cast<unsigned long long>(total / 1000000));
            }
        } else if (stage != stage_) {
            std::fprintf(stderr, "%s\n", stage.c_str());
        }
        stage_ = stage;
    }
    void end() const {
        if (!stage_.empty() && isatty(STDERR_FILENO)) std::fputs("\r\033[K", stderr);
    }

private:
    std::string stage_;
};

} // namespace attnscope::cli
