// A thread for each connection that is being served.
//
// httplib's own pool takes threads that were woken, but have not begun, for idle ones: of several connections that come at
// once some then wait until another one ends, which may be a stream of an hour, and beyond 64 they are closed unheard.
#pragma once

#include "base/mutex.h"

#include <httplib.h>

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <thread>

namespace attnscope::server {

class ConnectionThreads final : public httplib::TaskQueue {
public:
    explicit ConnectionThreads(size_t most, std::chrono::milliseconds idle = std::chrono::seconds(10))
        : most_(most), idle_limit_(idle) {}
    ~ConnectionThreads() override { shutdown(); }
    ConnectionThreads(const ConnectionThreads&) = delete;
    ConnectionThreads& operator=(const ConnectionThreads&) = delete;

    // The work begins at once, whatever else is running; false: as many run as may, or the system gives no more threads.
    bool enqueue(std::function<void()> work) override;
    // Returns when all work is done.
    void shutdown() override;

    size_t size() const; // threads there are

private:
    using Threads = std::list<std::thread>;
    void serve(Threads::iterator self);
    void join_ended() REQUIRES(mutex_);

    const size_t most_;
    const std::chrono::milliseconds idle_limit_; // a thread without work ends after it
    mutable base::Mutex mutex_;
    base::Condition changed_;
    // never more than there are free threads: each has its own
    std::deque<std::function<void()>> work_ GUARDED_BY(mutex_);
    Threads threads_ GUARDED_BY(mutex_), ended_ GUARDED_BY(mutex_);
    size_t free_ GUARDED_BY(mutex_) = 0; // threads that will take work: they wait, or were started and have not begun
    bool closing_ GUARDED_BY(mutex_) = false;
};

} // namespace attnscope::server
