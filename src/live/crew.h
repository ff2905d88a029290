// Threads that wait for the next token's work. Starting threads for each token would cost as much as the work itself.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace attnscope::live {

// Belongs to one thread, which works too.
class Crew {
public:
    // The threads are started by the first run: whoever gets all from a GPU has none.
    explicit Crew(int32_t n_threads) : size_(n_threads > 1 ? n_threads : 1) {}
    ~Crew();
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;

    // How many work at most: fewer where the machine gives no more threads.
    int32_t size() const { return size_; }
    // Calls work(item, member) for each item in [0, n_items) and returns when all are done; member in [0, size()) says who
    // works, for scratch memory. `work` must not throw.
    void run(size_t n_items, const std::function<void(size_t item, int32_t member)>& work);

private:
    void start();
    void serve(int32_t member);
    void work_off(int32_t member, std::unique_lock<std::mutex>& lock);

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const std::function<void(size_t, int32_t)>* work_ = nullptr;
    size_t next_ = 0, n_items_ = 0, n_done_ = 0;
    bool leave_ = false;
    int32_t size_;
    std::vector<std::thread> threads_;
};

} // namespace attnscope::live
