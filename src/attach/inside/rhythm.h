// How often a context computes, to tell whether it rests.
#pragma once

#include <algorithm>
#include <chrono>

namespace attnscope::attach {

// A context rests when it has computed nothing for twice the time that it takes from one graph to the next.
class Rhythm {
public:
    using Clock = std::chrono::steady_clock;

    // A graph was given to the engine.
    void computed(Clock::time_point now) {
        const Clock::duration since = now - last_;
        last_ = now;
        if (since > longest) return; // it rested, or takes so long that it does not matter
        usual_ = (3 * usual_ + since) / 4;
    }
    bool rests(Clock::time_point now) const { return now - last_ >= std::max<Clock::duration>(2 * usual_, shortest); }

private:
    static constexpr std::chrono::milliseconds shortest{4}, longest{200};
    Clock::time_point last_{};
    Clock::duration usual_ = std::chrono::milliseconds(12);
};

} // namespace attnscope::attach
