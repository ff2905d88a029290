// Threads that live on between two tokens: starting one takes the thread that decodes longer than what it is asked to do.
#pragma once

#include "base/mutex.h"

#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <thread>
#include <vector>

namespace attnscope::base {

class ThreadPool {
public:
    // At most so many threads; each is started when there is work for it.
    explicit ThreadPool(size_t most) : most_(most) {}
    // Waits for what has begun; what has not will never be, and its futures say so (std::future_error).
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Begun in the order of the calls. What `work` throws comes out of the future. From any thread.
    std::future<void> call(std::function<void()> work);

private:
    void serve();

    const size_t most_;
    Mutex mutex_;
    Condition wake_;
    std::deque<std::packaged_task<void()>> waiting_ GUARDED_BY(mutex_);
    size_t idle_ GUARDED_BY(mutex_) = 0;
    bool ending_ GUARDED_BY(mutex_) = false;
    std::vector<std::thread> threads_; // started under the mutex, joined by the destructor
};

} // namespace attnscope::base
