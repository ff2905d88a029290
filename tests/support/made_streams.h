// Streams of a device that is made of threads: what is queued on one runs in order, on a thread of its own, and the order of two
// streams can be made the worst that their events allow. A wait that is missing then shows every time, not once in a thousand runs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace attnscope::test {

class MadeStreams;

class MadeStream {
public:
    ~MadeStream();
    void run(std::function<void()> work); // returns at once
    uint64_t ticket() const;              // of everything queued so far
    // What is queued from now on runs behind `ticket` of the other.
    void run_behind(std::shared_ptr<MadeStream> other, uint64_t ticket);
    void wait(uint64_t ticket); // of the calling thread
    // To be called when it is given a graph: the first of its device that is given one is the engine's, until that ends.
    void given_a_graph();
    bool is_the_engines() const;
    static bool here(); // is the calling thread a stream's?

private:
    friend class MadeStreams;
    struct Work {
        std::function<void()> run; // empty: a wait
        std::shared_ptr<MadeStream> behind;
        uint64_t ticket = 0;
    };
    MadeStream(MadeStreams& all, int device) : all_(all), device_(device) {}
    void serve();

    // All below is guarded by MadeStreams::mutex_.
    MadeStreams& all_;
    const int device_;
    bool engine_ = false;
    std::deque<Work> queue_;
    uint64_t queued_ = 0, done_ = 0, demanded_ = 0;
    bool running_ = false, ending_ = false;
    std::shared_ptr<MadeStream> behind_; // waits for it now
    uint64_t behind_ticket_ = 0;
    std::thread thread_;
};

class MadeStreams {
public:
    enum class Order {
        together, // each as fast as it can
        // other streams than the engine's run only what somebody waits for, and when the engine can go no further
        engine_first,
        engine_last, // the other way round
    };
    std::shared_ptr<MadeStream> open(int device);
    void set_order(Order order, std::chrono::milliseconds late_by = {});
    // Streams that are not the engine's stand still, whoever waits for them.
    void hold(bool on);
    size_t n_open() const; // streams
    // Blocks until all streams have done what is queued.
    void drain();

private:
    friend class MadeStream;
    bool comes_last(const MadeStream& s) const;
    bool held(const MadeStream& s) const { return hold_ && !s.engine_ && !s.ending_; }
    bool may_run(const MadeStream& s) const;
    bool somebody_first() const;
    void demand(MadeStream& s, uint64_t ticket);

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<MadeStream*> streams_;
    Order order_ = Order::together;
    std::chrono::milliseconds late_by_{};
    bool hold_ = false;
};

} // namespace attnscope::test
