// Locks whose use a compiler can check: with Clang (`make clang`) a member marked GUARDED_BY(mutex_) that is touched without
// the lock, or a function marked REQUIRES(mutex_) that is called without it, does not compile. Other compilers see std::mutex.
// The attributes: clang.llvm.org/docs/ThreadSafetyAnalysis.html. It does not look into lambdas: conditions that read guarded
// members are loops around wait(), not predicates.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define ATTNSCOPE_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define ATTNSCOPE_THREAD_ATTRIBUTE(x)
#endif
#define CAPABILITY(x) ATTNSCOPE_THREAD_ATTRIBUTE(capability(x))
#define SCOPED_CAPABILITY ATTNSCOPE_THREAD_ATTRIBUTE(scoped_lockable)
#define GUARDED_BY(x) ATTNSCOPE_THREAD_ATTRIBUTE(guarded_by(x))
#define REQUIRES(...) ATTNSCOPE_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define ACQUIRE(...) ATTNSCOPE_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define RELEASE(...) ATTNSCOPE_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))

namespace attnscope::base {

class CAPABILITY("mutex") Mutex {
public:
    void lock() ACQUIRE() { native_.lock(); }
    void unlock() RELEASE() { native_.unlock(); }

private:
    friend class Lock;
    std::mutex native_;
};

// Holds a mutex until the end of the block, but for what lies between unlock() and lock().
class SCOPED_CAPABILITY Lock {
public:
    explicit Lock(Mutex& mutex) ACQUIRE(mutex) : native_(mutex.native_) {}
    ~Lock() RELEASE() {}
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    void lock() ACQUIRE() { native_.lock(); }
    void unlock() RELEASE() { native_.unlock(); }

private:
    friend class Condition;
    std::unique_lock<std::mutex> native_;
};

// Waits wake up without a reason, too: look again in a loop.
class Condition {
public:
    void wait(Lock& lock) { native_.wait(lock.native_); }
    template <typename Clock, typename Duration>
    std::cv_status wait_until(Lock& lock, const std::chrono::time_point<Clock, Duration>& when) {
        return native_.wait_until(lock.native_, when);
    }
    void notify_one() { native_.notify_one(); }
    void notify_all() { native_.notify_all(); }

private:
    std::condition_variable native_;
};

} // namespace attnscope::base
