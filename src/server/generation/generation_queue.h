// The engine's thread: one session, one generation at a time, in the order of the requests.
//
// The context is kept between generations: the next one goes on behind the tokens that its prompt has in common with
// it.
#pragma once

#include "server/generation/generation.h"

#include <attnscope/recording.h>
#include <attnscope/session.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace attnscope::server {

struct QueueOptions {
    size_t max_waiting = 32;            // generations that wait for their turn
    std::string record_dir;             // where recordings go; empty: none are made
    bool frames = true;                 // false: the session captures nothing, no frames come
    std::chrono::seconds time_limit{0}; // of one generation; 0: none
    GenerationLimits limits;
};

// What the engine has done since it started.
struct EngineCounters {
    int64_t n_generations = 0;
    size_t n_waiting = 0;
    bool busy = false;
    GenerationSummary last;
};

class GenerationQueue {
public:
    // The session must outlive the queue; until then its decoding belongs to the queue.
    GenerationQueue(Session& session, QueueOptions options);
    ~GenerationQueue(); // closes
    GenerationQueue(const GenerationQueue&) = delete;
    GenerationQueue& operator=(const GenerationQueue&) = delete;

    // Null when as many wait as may.
    std::shared_ptr<Generation> submit(GenerationRequest request);
    // The newest generation of that name, running, waiting or among the last that ended; without a name the running
    // one, or the last. Null: there is none.
    std::shared_ptr<Generation> find(const std::string& id) const;
    // Ends the generations of that name, or the running one where no name is given; false: there is none such.
    bool cancel(const std::string& id);
    EngineCounters counters() const;
    // Cancels everything, takes nothing more. Twice is once.
    void close();

private:
    void work();
    void drop_cancelled() REQUIRES(mutex_);
    GenerationSummary run(Generation& generation);
    // How many tokens of the prompt are in the context already; the rest of the context is forgotten.
    int64_t keep_prefix(const GenerationRequest& request);
    void forget_context();
    // Some client still reads rows of this context: it keeps the keys, we go on with a copy of the first n.
    Result<void> copy_keys(int64_t n);
    void make_room();

    Session& session_;
    const QueueOptions options_;

    mutable base::Mutex mutex_;
    base::Condition changed_;
    std::deque<std::shared_ptr<Generation>> waiting_ GUARDED_BY(mutex_);
    std::shared_ptr<Generation> running_ GUARDED_BY(mutex_);
    std::deque<std::shared_ptr<Generation>> ended_ GUARDED_BY(mutex_); // the last few, newest last
    EngineCounters counters_ GUARDED_BY(mutex_);
    bool closing_ GUARDED_BY(mutex_) = false;

    // of the engine's thread
    std::vector<int32_t> context_;     // the tokens that the session's context holds
    std::shared_ptr<SharedKeys> keys_; // their keys
    int64_t n_recordings_ = 0;
    std::thread thread_;
};

} // namespace attnscope::server
