#include "server/http/connection_threads.h"

#include <system_error>
#include <utility>

namespace attnscope::server {

bool ConnectionThreads::enqueue(std::function<void()> work) {
    {
        const base::Lock lock(mutex_);
        if (closing_) return false;
        join_ended();
        if (work_.size() >= free_) {
            if (threads_.size() >= most_) return false;
            threads_.emplace_front();
            try {
                threads_.front() = std::thread([this, self = threads_.begin()] { serve(self); });
            } catch (const std::system_error&) {
                threads_.pop_front();
                return false;
            }
            ++free_;
        }
        work_.push_back(std::move(work));
    }
    changed_.notify_one();
    return true;
}

void ConnectionThreads::serve(Threads::iterator self) {
    base::Lock lock(mutex_);
    while (true) {
        const auto until = std::chrono::steady_clock::now() + idle_limit_;
        while (!closing_ && work_.empty() && changed_.wait_until(lock, until) != std::cv_status::timeout) {}
        --free_;
        if (work_.empty()) break; // idle for too long, or closing
        auto work = std::move(work_.front());
        work_.pop_front();
        lock.unlock();
        work();
        work = nullptr; // what it holds is freed here, not under the mutex
        lock.lock();
        ++free_;
    }
    ended_.splice(ended_.begin(), threads_, self);
    if (threads_.empty()) changed_.notify_all();
}

void ConnectionThreads::join_ended() {
    for (std::thread& t : ended_) t.join(); // none of them takes the mutex again
    ended_.clear();
}

void ConnectionThreads::shutdown() {
    base::Lock lock(mutex_);
    closing_ = true;
    changed_.notify_all();
    while (!threads_.empty()) changed_.wait(lock);
    join_ended();
}

size_t ConnectionThreads::size() const {
    const base::Lock lock(mutex_);
    return threads_.size();
}

} // namespace attnscope::server
