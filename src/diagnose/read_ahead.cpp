#include "diagnose/read_ahead.h"

#include <system_error>
#include <utility>

namespace attnscope::diagnose {

ReadAhead::ReadAhead(DumpReader& reader) : reader_(reader) {
    try {
        thread_ = std::thread([this] { run(); });
    } catch (const std::system_error&) {
        // the machine gives no more threads
    }
}

ReadAhead::~ReadAhead() {
    {
        const base::Lock lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
}

ReadAhead::Item ReadAhead::read() const {
    Item item;
    try {
        if (!reader_.at_end()) item.token = reader_.next();
        item.last = reader_.at_end();
    } catch (...) { // a tensor that does not fit into memory
        item.thrown = std::current_exception();
        item.last = true;
    }
    return item;
}

void ReadAhead::run() {
    for (bool last = false; !last;) {
        Item item = read();
        last = item.last;
        base::Lock lock(mutex_);
        ready_ = std::move(item);
        changed_.notify_all();
        // Taken means that the token before it is no longer looked at: its memory may be written again.
        while (ready_ && !stop_) changed_.wait(lock);
        if (stop_) return;
    }
}

Result<const DumpToken*> ReadAhead::next() {
    if (ended_) return static_cast<const DumpToken*>(nullptr);
    Item item;
    if (thread_.joinable()) {
        base::Lock lock(mutex_);
        while (!ready_) changed_.wait(lock);
        item = std::move(*ready_);
        ready_.reset();
        lock.unlock();
        changed_.notify_all();
    } else {
        item = read();
    }
    ended_ = item.last;
    if (item.thrown) std::rethrow_exception(item.thrown);
    return item.token;
}

} // namespace attnscope::diagnose
