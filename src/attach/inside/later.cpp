#include "attach/inside/later.h"

#include "attach/inside/own_thread.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <utility>

namespace attnscope::attach {

namespace {

constexpr size_t most_bytes = size_t(32) << 20;

size_t size_of(const Message& message) {
    const auto* frame = std::get_if<FrameMessage>(&message);
    return frame ? frame->frame.q.size() + frame->frame.k.size() : 0;
}

struct Waiting {
    Message message;
    bool (*send)(const Message&);
    size_t bytes;
};

// One a process, and never destroyed: the thread may look at it while the program ends.
struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Waiting> waiting; // the first of them is being sent
    size_t bytes = 0;
    bool has_thread = false, works = true;
};
Queue& queue() {
    static Queue& q = *new Queue;
    return q;
}

bool sent(const Waiting& one) noexcept {
    try {
        return one.send(one.message);
    } catch (const std::exception&) { // no memory for its bytes
        return false;
    }
}

void serve() {
    Queue& q = queue();
    std::unique_lock lock(q.mutex);
    for (;;) {
        q.changed.wait(lock, [&] { return !q.waiting.empty(); });
        const Waiting& first = q.waiting.front();
        lock.unlock();
        const bool works = sent(first);
        lock.lock();
        q.works = works;
        q.bytes -= first.bytes;
        q.waiting.pop_front();
        q.changed.notify_all();
    }
}

} // namespace

bool send_later(Message&& message, bool (*send)(const Message&)) {
    Queue& q = queue();
    std::unique_lock lock(q.mutex);
    if (!q.has_thread && !(q.has_thread = start_own_thread(serve))) {
        lock.unlock();
        return send(message);
    }
    q.changed.wait(lock, [&] { return q.bytes < most_bytes; });
    const size_t bytes = size_of(message);
    q.waiting.push_back({std::move(message), send, bytes});
    q.bytes += bytes;
    q.changed.notify_all();
    return q.works;
}

void wait_for_later() {
    Queue& q = queue();
    std::unique_lock lock(q.mutex);
    q.changed.wait(lock, [&] { return q.waiting.empty(); });
}

} // namespace attnscope::attach
