#include "server/front/slot_pool.h"

#include <algorithm>
#include <tuple>

namespace attnscope::server {

namespace {
constexpr std::chrono::milliseconds patience{100};
} // namespace

SlotPool::Held::~Held() {
    const base::Lock lock(pool_.mutex_);
    pool_.slots_[static_cast<size_t>(slot_)].held = false;
    pool_.changed_.notify_all();
}

Result<std::unique_ptr<SlotPool::Held>> SlotPool::hold(int32_t n_slots, const std::vector<int32_t>& prompt,
                                                       const std::vector<bool>& busy, const LiveSequences& live,
                                                       const GoneAway& gone) {
    const std::vector<int64_t> held = live.beginnings(prompt, n_slots);
    base::Lock lock(mutex_);
    const auto n = static_cast<size_t>(n_slots);
    if (slots_.size() < n) slots_.resize(n);
    const uint64_t ticket = next_ticket_++;
    waiting_.push_back(ticket);
    while (true) {
        const bool our_turn = waiting_.front() == ticket;
        const bool any = std::any_of(slots_.begin(), slots_.begin() + n_slots, [](const Slot& s) { return !s.held; });
        if (our_turn && any) break;
        changed_.wait_until(lock, std::chrono::steady_clock::now() + patience);
        lock.unlock();
        const bool nobody = gone();
        lock.lock();
        if (!nobody) continue;
        std::erase(waiting_, ticket);
        changed_.notify_all();
        return Error{ErrorKind::io, "nobody wants the answer any more"};
    }
    waiting_.pop_front();
    size_t best = n;
    const auto worth = [&](size_t i) {
        const bool at_work = i < busy.size() && busy[i];
        return std::make_tuple(!at_work, held[i], ~slots_[i].last_held);
    };
    for (size_t i = 0; i < n; ++i) {
        if (!slots_[i].held && (best == n || worth(i) > worth(best))) best = i;
    }
    slots_[best].held = true;
    slots_[best].last_held = ++n_held_;
    changed_.notify_all(); // the next in line may find another one
    return std::make_unique<Held>(*this, static_cast<int32_t>(best));
}

} // namespace attnscope::server
