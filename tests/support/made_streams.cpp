#include "support/made_streams.h"

#include <algorithm>
#include <utility>

namespace attnscope::test {

namespace {
thread_local bool a_streams_thread = false;
}

bool MadeStream::here() {
    return a_streams_thread;
}

std::shared_ptr<MadeStream> MadeStreams::open(int device) {
    std::shared_ptr<MadeStream> stream(new MadeStream(*this, device));
    const std::lock_guard lock(mutex_);
    streams_.push_back(stream.get());
    stream->thread_ = std::thread([s = stream.get()] { s->serve(); });
    return stream;
}

MadeStream::~MadeStream() {
    {
        const std::lock_guard lock(all_.mutex_);
        ending_ = true;
        demanded_ = queued_;
    }
    all_.changed_.notify_all();
    thread_.join();
    const std::lock_guard lock(all_.mutex_);
    std::erase(all_.streams_, this);
}

void MadeStream::run(std::function<void()> work) {
    {
        const std::lock_guard lock(all_.mutex_);
        queue_.push_back({std::move(work), nullptr, 0});
        ++queued_;
    }
    all_.changed_.notify_all();
}

uint64_t MadeStream::ticket() const {
    const std::lock_guard lock(all_.mutex_);
    return queued_;
}

void MadeStream::run_behind(std::shared_ptr<MadeStream> other, uint64_t ticket) {
    if (other.get() == this) return;
    {
        const std::lock_guard lock(all_.mutex_);
        queue_.push_back({{}, std::move(other), ticket});
        ++queued_;
    }
    all_.changed_.notify_all();
}

void MadeStream::wait(uint64_t ticket) {
    std::unique_lock lock(all_.mutex_);
    all_.demand(*this, ticket);
    all_.changed_.wait(lock, [&] { return done_ >= ticket; });
}

void MadeStream::given_a_graph() {
    const std::lock_guard lock(all_.mutex_);
    const auto other = [&](const MadeStream* s) { return s->device_ == device_ && s->engine_; };
    if (std::none_of(all_.streams_.begin(), all_.streams_.end(), other)) engine_ = true;
}

bool MadeStream::is_the_engines() const {
    const std::lock_guard lock(all_.mutex_);
    return engine_;
}

void MadeStream::serve() {
    a_streams_thread = true;
    std::unique_lock lock(all_.mutex_);
    for (;;) {
        all_.changed_.wait(lock, [&] { return (ending_ && queue_.empty()) || all_.may_run(*this); });
        if (queue_.empty()) return;
        Work work = std::move(queue_.front());
        queue_.pop_front();
        if (work.run) {
            running_ = true;
            const auto late_by = all_.comes_last(*this) ? all_.late_by_ : std::chrono::milliseconds{};
            lock.unlock();
            if (late_by.count() > 0) std::this_thread::sleep_for(late_by);
            work.run();
            work.run = {};
            lock.lock();
            running_ = false;
        } else {
            behind_ = work.behind;
            behind_ticket_ = work.ticket;
            all_.demand(*behind_, work.ticket);
            all_.changed_.wait(lock, [&] { return behind_->done_ >= behind_ticket_; });
            behind_.reset();
            // The other stream may end with this: not while the lock is held.
            lock.unlock();
            work.behind.reset();
            lock.lock();
        }
        ++done_;
        all_.changed_.notify_all();
    }
}

void MadeStreams::demand(MadeStream& s, uint64_t ticket) {
    s.demanded_ = std::max(s.demanded_, ticket);
    changed_.notify_all();
}

bool MadeStreams::comes_last(const MadeStream& s) const {
    return order_ == Order::engine_first ? !s.engine_ : order_ == Order::engine_last && s.engine_;
}

// Is there a stream that does not come last and has something to do now?
bool MadeStreams::somebody_first() const {
    return std::any_of(streams_.begin(), streams_.end(), [&](const MadeStream* s) {
        if (comes_last(*s) || held(*s)) return false;
        if (s->behind_) return s->behind_->done_ >= s->behind_ticket_;
        return s->running_ || !s->queue_.empty();
    });
}

bool MadeStreams::may_run(const MadeStream& s) const {
    if (s.queue_.empty() || held(s)) return false;
    return !comes_last(s) || (s.demanded_ > s.done_ && !somebody_first());
}

void MadeStreams::set_order(Order order, std::chrono::milliseconds late_by) {
    {
        const std::lock_guard lock(mutex_);
        order_ = order;
        late_by_ = late_by;
    }
    changed_.notify_all();
}

void MadeStreams::hold(bool on) {
    {
        const std::lock_guard lock(mutex_);
        hold_ = on;
    }
    changed_.notify_all();
}

size_t MadeStreams::n_open() const {
    const std::lock_guard lock(mutex_);
    return streams_.size();
}

void MadeStreams::drain() {
    std::unique_lock lock(mutex_);
    for (MadeStream* s : streams_) demand(*s, s->queued_);
    changed_.wait(lock, [&] {
        return std::all_of(streams_.begin(), streams_.end(),
                           [](const MadeStream* s) { return s->done_ >= s->demanded_; });
    });
}

} // namespace attnscope::test
