#include "base/thread_pool.h"

#include <utility>

namespace attnscope::base {

ThreadPool::~ThreadPool() {
    {
        const Lock lock(mutex_);
        ending_ = true;
        waiting_.clear();
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
}

std::future<void> ThreadPool::call(std::function<void()> work) {
    std::packaged_task<void()> task(std::move(work));
    std::future<void> done = task.get_future();
    {
        const Lock lock(mutex_);
        waiting_.push_back(std::move(task));
        if (waiting_.size() > idle_ && threads_.size() < most_) threads_.emplace_back([this] { serve(); });
    }
    wake_.notify_one();
    return done;
}

void ThreadPool::serve() {
    Lock lock(mutex_);
    for (;;) {
        ++idle_;
        while (!ending_ && waiting_.empty()) wake_.wait(lock);
        --idle_;
        if (waiting_.empty()) return;
        std::packaged_task<void()> task = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        task();
        lock.lock();
    }
}

} // namespace attnscope::base
