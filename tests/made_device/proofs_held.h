// Holds back the threads that prove, by the one function of ggml that they call and that nobody else calls off the decoding thread
// and the devices' streams: it is found in this program before it is found in ggml. Needs values in a quantised cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace attnscope::test {

class ProofsHeld {
public:
    ProofsHeld();
    ~ProofsHeld();
    ProofsHeld(const ProofsHeld&) = delete;
    ProofsHeld& operator=(const ProofsHeld&) = delete;

    // From now on proofs wait; until release(), or until moves() was not called for a while: what decodes waits for them then.
    void until_nothing_moves();
    void moves() { ++moves_; }
    void release();
    // Threads that had to wait.
    int64_t n_waited() const;

private:
    std::atomic<int64_t> moves_{0};
    std::thread watch_;
};

} // namespace attnscope::test
