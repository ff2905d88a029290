// Whoever waits for one row comes before whoever waits for all of them: a pass over a recording rests while somebody steps through it.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace attnscope::view {

// Thread-safe.
class Courtesy {
public:
    // Somebody is at work now, or was a moment ago, and will go on. The page draws what it got meanwhile.
    void somebody_asks() { quiet_ = now() + 200; }
    // Of a pass, between two blocks of it. Returns before long in any case: a pass goes on, however slowly.
    void give_way() const {
        for (int waited = 0; waited < most_ms && now() < quiet_; waited += step_ms)
            std::this_thread::sleep_for(std::chrono::milliseconds(step_ms));
    }

private:
    static constexpr int most_ms = 1000, step_ms = 5;
    static int64_t now() {
        const auto since = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
    }
    std::atomic<int64_t> quiet_{0}; // until then, ms of the steady clock
};

// Somebody waits as long as this lives.
class AtWork {
public:
    explicit AtWork(Courtesy& courtesy) : courtesy_(courtesy) { courtesy_.somebody_asks(); }
    ~AtWork() { courtesy_.somebody_asks(); }
    AtWork(const AtWork&) = delete;
    AtWork& operator=(const AtWork&) = delete;

private:
    Courtesy& courtesy_;
};

} // namespace attnscope::view
