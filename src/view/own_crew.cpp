#include "base/mutex.h"
#include "view/crew.h"

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

namespace attnscope::view {

namespace {

class OwnCrew final : public Crew {
public:
    explicit OwnCrew(int32_t n_threads) : size_(std::max(n_threads, 1)) {}
    ~OwnCrew() override;
    OwnCrew(const OwnCrew&) = delete;
    OwnCrew& operator=(const OwnCrew&) = delete;

    int32_t size() const override { return size_; }
    void run(size_t n_items, const std::function<void(size_t, int32_t)>& work) override;

private:
    void start();
    void serve(int32_t member);
    void work_off(int32_t member) REQUIRES(mutex_);

    base::Mutex mutex_;
    base::Condition wake_, done_;
    const std::function<void(size_t, int32_t)>* work_ GUARDED_BY(mutex_) = nullptr;
    size_t next_ GUARDED_BY(mutex_) = 0, n_items_ GUARDED_BY(mutex_) = 0, n_done_ GUARDED_BY(mutex_) = 0;
    bool leave_ GUARDED_BY(mutex_) = false;
    int32_t size_;
    std::vector<std::thread> threads_;
};

void OwnCrew::start() {
    try {
        for (auto member = static_cast<int32_t>(threads_.size()) + 1; member < size_; ++member)
            threads_.emplace_back([this, member] { serve(member); });
    } catch (const std::system_error&) {
        // the machine gives no more threads: those there are do the work
        size_ = static_cast<int32_t>(threads_.size()) + 1;
    }
}

OwnCrew::~OwnCrew() {
    {
        const base::Lock lock(mutex_);
        leave_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
}

// Items are layers: some dozens a token, tens of microseconds each, so one lock does for all of them.
void OwnCrew::work_off(int32_t member) {
    while (next_ < n_items_) {
        const size_t item = next_++;
        const auto& work = *work_;
        mutex_.unlock();
        work(item, member);
        mutex_.lock();
        if (++n_done_ == n_items_) done_.notify_all();
    }
}

void OwnCrew::serve(int32_t member) {
    base::Lock lock(mutex_);
    while (!leave_) {
        work_off(member);
        while (!leave_ && next_ >= n_items_) wake_.wait(lock);
    }
}

void OwnCrew::run(size_t n_items, const std::function<void(size_t, int32_t)>& work) {
    start();
    if (threads_.empty()) {
        for (size_t i = 0; i < n_items; ++i) work(i, 0);
        return;
    }
    base::Lock lock(mutex_);
    work_ = &work;
    next_ = n_done_ = 0;
    n_items_ = n_items;
    wake_.notify_all();
    work_off(0);
    while (n_done_ != n_items_) done_.wait(lock);
    next_ = n_items_ = n_done_ = 0;
}

} // namespace

std::unique_ptr<Crew> own_crew(int32_t n_threads) {
    return std::make_unique<OwnCrew>(n_threads);
}

} // namespace attnscope::view
