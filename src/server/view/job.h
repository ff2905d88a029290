// Work that takes longer than a request may wait: asked for again and again until it is there.
#pragma once

#include "view/recorded/tensors.h"

#include <attnscope/error.h>

#include <nlohmann/json.hpp>

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace attnscope::server {

using Json = nlohmann::json;

class Job {
public:
    using Work = std::function<Result<Json>(const view::Progress&)>;
    // niceness, beside the program's own: what somebody waits for comes first.
    explicit Job(Work work, int niceness = 10);
    ~Job(); // stops it
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;
    double progress() const { return progress_; }
    std::optional<Result<Json>> result() const;

private:
    std::atomic<double> progress_{0};
    std::atomic<bool> stop_{false};
    mutable std::mutex mutex_;
    std::optional<Result<Json>> result_;
    std::thread thread_;
};

} // namespace attnscope::server
