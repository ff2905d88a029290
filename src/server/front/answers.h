// What a front remembers of answers that it writes itself: those that run, by the names that their clients gave them, the last ones
// that ended, and what the last ones accumulated.
#pragma once

#include "base/mutex.h"
#include "server/dialects/kobold_words.h"
#include "server/recordings/prune.h"

#include <attnscope/position_scores.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::server {

class Answers {
public:
    class One { // from any thread
    public:
        explicit One(std::string name) : id(std::move(name)) {}
        const std::string id; // may be empty
        void add(const std::string& text);
        std::string text() const;
        // Somebody asked for its end.
        void cancel() { cancelled_ = true; }
        bool cancelled() const { return cancelled_; }
        void end() { ended_ = true; }
        bool ended() const { return ended_; }

    private:
        std::atomic<bool> cancelled_{false}, ended_{false};
        mutable base::Mutex mutex_;
        std::string text_ GUARDED_BY(mutex_);
    };
    // Runs until what is returned goes.
    std::shared_ptr<One> begin(const std::string& id);
    // The newest of that name, among those that run and the last ones that ended. Without a name: the newest that runs and has none.
    std::shared_ptr<One> find(const std::string& id) const;
    // Ends those of that name. Without one: those that have none, or whichever is the only one that runs. False: there was none.
    bool cancel(const std::string& id);

    // What is told of an answer that ended.
    struct End {
        double prompt_seconds = 0, generate_seconds = 0;
        int64_t n_prompt = 0, n_read = 0, n_generated = 0;
        uint32_t seed = 0;
        int stop_reason = -1; // KoboldPerf's
    };
    void ended(const End& end);
    KoboldPerf perf() const;

    // Of a request that its client gave a name.
    void keep_scores(const std::string& id, std::vector<int32_t> prompt, const PositionScores& scores);
    std::optional<ScoredPrompt> scores(const std::string& id) const;

private:
    const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
    mutable base::Mutex mutex_;
    std::deque<std::shared_ptr<One>> all_ GUARDED_BY(mutex_); // the newest last
    std::deque<std::pair<std::string, ScoredPrompt>> scores_ GUARDED_BY(mutex_);
    KoboldPerf last_ GUARDED_BY(mutex_);
};

} // namespace attnscope::server
