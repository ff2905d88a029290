#include "cli/says_when_ready.h"

#include <utility>

namespace attnscope::cli {

SaysWhenReady::SaysWhenReady(Sayings sayings) : sayings_(std::move(sayings)), thread_([this] { run(); }) {}

SaysWhenReady::~SaysWhenReady() {
    over_ = true;
    thread_.join();
}

void SaysWhenReady::run() {
    const server::GoneAway over = [this] { return over_.load(); };
    const auto began = std::chrono::steady_clock::now();
    for (bool missed = false; !over_;) {
        if (sayings_.is_ready(over)) {
            if (!over_) sayings_.ready();
            return;
        }
        if (!missed && std::chrono::steady_clock::now() - began > sayings_.patience) {
            missed = true;
            sayings_.missed();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
}

} // namespace attnscope::cli
