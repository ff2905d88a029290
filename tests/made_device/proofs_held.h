// Holds back the threads that prove before they read a key. They ask ggml how keys in q4_0 are multiplied, which nobody else does
// off the decoding thread and the devices' streams; here the function is found before ggml's.
#pragma once

#include <attnscope/session.h>

#include <atomic>
#include <cstdint>
#include <thread>

namespace attnscope::test {

class ProofsHeld {
public:
    // Gives a session the caches that it needs.
    static void prepare(SessionOptions& options);
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
