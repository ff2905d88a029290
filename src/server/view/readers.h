// As many readers of a sequence as threads read it.
#pragma once

#include <attnscope/recording.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace attnscope::server {

// A recording is read by one thread at a time: for each thread that reads one of its own, kept for the next. Texts and queries are
// read meanwhile by another.
class Readers : public std::enable_shared_from_this<Readers> {
public:
    Readers(std::string path, int64_t sequence) : path_(std::move(path)), sequence_(sequence) {}
    struct GiveBack {
        std::shared_ptr<Readers> to;
        void operator()(Recording* recording) const {
            const std::lock_guard lock(to->mutex_);
            to->free_.emplace_back(recording);
        }
    };
    using Taken = std::unique_ptr<Recording, GiveBack>;
    Result<Taken> take() {
        {
            const std::lock_guard lock(mutex_);
            if (!free_.empty()) {
                Recording* const recording = free_.back().release();
                free_.pop_back();
                return Taken(recording, {shared_from_this()});
            }
        }
        Result<std::unique_ptr<Recording>> opened = Recording::open_sequence(path_, sequence_);
        if (!opened) return opened.error();
        return Taken(opened->release(), {shared_from_this()});
    }

private:
    const std::string path_;
    const int64_t sequence_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Recording>> free_;
};

} // namespace attnscope::server
