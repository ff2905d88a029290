// Says, once, that the server behind ours is there, or that it is missed.
#pragma once

#include "server/front/upstream.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

namespace attnscope::cli {

class SaysWhenReady {
public:
    struct Sayings {
        std::function<bool(const server::GoneAway& over)> is_ready; // asked twenty times a second
        std::function<void()> ready;
        std::function<void()> missed = [] {}; // not ready within `patience`; it is waited for all the same
        std::chrono::seconds patience{15};
    };
    explicit SaysWhenReady(Sayings sayings);
    ~SaysWhenReady(); // ends with the run
    SaysWhenReady(const SaysWhenReady&) = delete;
    SaysWhenReady& operator=(const SaysWhenReady&) = delete;

private:
    void run();
    const Sayings sayings_;
    std::atomic<bool> over_{false};
    std::thread thread_;
};

} // namespace attnscope::cli
