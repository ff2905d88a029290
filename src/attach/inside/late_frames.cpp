#include "attach/inside/late_frames.h"

#include "attach/inside/own_thread.h"
#include "attach/inside/program.h"
#include "attach/inside/stream.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace attnscope::attach {

namespace {

constexpr std::chrono::milliseconds between_looks{4};

// One a process, and never destroyed: the thread may look at it while the program ends.
struct Waiting {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::weak_ptr<Stream>> streams;
    bool has_thread = false;
};
Waiting& waiting() {
    static Waiting& w = *new Waiting;
    return w;
}

void serve() {
    Waiting& w = waiting();
    for (;;) {
        std::vector<std::weak_ptr<Stream>> now;
        {
            std::unique_lock lock(w.mutex);
            w.changed.wait(lock, [&] { return !w.streams.empty(); });
            now = std::exchange(w.streams, {});
        }
        std::this_thread::sleep_for(between_looks);
        for (const std::weak_ptr<Stream>& one : now) {
            const std::shared_ptr<Stream> stream = one.lock();
            if (stream && !stream->bring_late_frames()) come_back_to(one);
        }
    }
}

} // namespace

void come_back_to(std::weak_ptr<Stream> stream) {
    Waiting& w = waiting();
    const std::lock_guard lock(w.mutex);
    const auto same = [&](const std::weak_ptr<Stream>& other) {
        return !other.owner_before(stream) && !stream.owner_before(other);
    };
    if (std::none_of(w.streams.begin(), w.streams.end(), same)) w.streams.push_back(std::move(stream));
    w.changed.notify_one();
    if (w.has_thread || !(w.has_thread = start_own_thread(serve))) return;
    // Before the device's own library ends, which was there before us.
    std::atexit(finish_streams);
}

} // namespace attnscope::attach
