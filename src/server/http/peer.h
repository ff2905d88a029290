// Is somebody there who waits for an answer?
//
// A client that is gone and one that has said all it has to say (shutdown(SHUT_WR)) look the same from here: nothing comes from them any
// more. What is sent to them tells them apart, for the system of the one that is gone refuses it. Every answer begins with the same
// letters: while it is waited for they go out before it, one at a time. Behind its beginning the system asks in our place (keep-alive):
// that of a client that is gone has forgotten the connection after a minute, and refuses to hear of it.
#pragma once

#include "base/mutex.h"

#include <atomic>
#include <chrono>
#include <cstddef>

#include <sys/types.h>

namespace attnscope::server {

class Peer {
public:
    explicit Peer(int socket) : socket_(socket) {}
    // The next request's answer: nothing of it was sent.
    void begin_answer();
    bool is_there(); // from any thread
    // Nothing comes from it any more: it is gone, or has said all it has to say. From any thread.
    bool is_silent() const;
    // Of the thread that answers.
    ssize_t send(const char* from, size_t size);
    bool says_close() const { return says_close_; }

private:
    ssize_t send_now(const char* from, size_t size);
    void ask() REQUIRES(mutex_);
    void keep_alive();

    const int socket_;
    std::atomic<bool> gone_{false};
    std::atomic<bool> in_head_{true};
    std::atomic<bool> silent_before_{false}; // when its answer began it had said all it had to say
    bool says_close_ = false;
    base::Mutex mutex_; // of what is sent while in_head_
    bool kept_alive_ GUARDED_BY(mutex_) = false;
    size_t n_letters_ GUARDED_BY(mutex_) = 0; // of the answer, that are out already
    std::chrono::steady_clock::time_point ask_at_ GUARDED_BY(mutex_){}, began_ GUARDED_BY(mutex_){}; // its answer
};

} // namespace attnscope::server
