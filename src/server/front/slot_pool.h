// Which slot of llama-server a request that wants attention is pinned to: one that no other such request of ours holds.
#pragma once

#include "base/mutex.h"
#include "server/front/live_sequences.h"
#include "server/front/upstream.h"

#include <attnscope/error.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace attnscope::server {

class SlotPool {
public:
    // A slot that is held until this goes.
    class Held {
    public:
        Held(SlotPool& pool, int32_t slot) : pool_(pool), slot_(slot) {}
        ~Held();
        Held(const Held&) = delete;
        Held& operator=(const Held&) = delete;
        int32_t slot() const { return slot_; }

    private:
        SlotPool& pool_;
        const int32_t slot_;
    };
    // Of `n_slots` the free one that serves `prompt` best: one at rest rather than one at work, of those the one that holds most of
    // its beginning, of those the one that was held longest ago. Waits while all are held, in the order of asking, until `gone`.
    // `busy`: slots that are at work for others, as far as is known.
    Result<std::unique_ptr<Held>> hold(int32_t n_slots, const std::vector<int32_t>& prompt,
                                       const std::vector<bool>& busy, const LiveSequences& live, const GoneAway& gone);

    size_t n_waiting() const {
        const base::Lock lock(mutex_);
        return waiting_.size();
    }

private:
    struct Slot {
        bool held = false;
        uint64_t last_held = 0;
    };
    mutable base::Mutex mutex_;
    base::Condition changed_;
    std::vector<Slot> slots_ GUARDED_BY(mutex_);
    uint64_t n_held_ GUARDED_BY(mutex_) = 0;
    uint64_t next_ticket_ GUARDED_BY(mutex_) = 0;
    std::deque<uint64_t> waiting_ GUARDED_BY(mutex_); // tickets
};

} // namespace attnscope::server
