// A recording that any number of threads may ask: each gets a reader of its own, because a reader belongs to one thread.
#pragma once

#include <attnscope/recording.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace attnscope::python {

class RecordingPool {
public:
    // One sequence of a file (0: the first, and mostly the only one). Throws Failure.
    explicit RecordingPool(std::string path, int64_t sequence = 0);
    ~RecordingPool();
    RecordingPool(const RecordingPool&) = delete;
    RecordingPool& operator=(const RecordingPool&) = delete;

    // A reader for as long as the lease lives.
    class Lease {
    public:
        Lease(RecordingPool& pool, std::unique_ptr<Recording> reader) : pool_(pool), reader_(std::move(reader)) {}
        ~Lease() { pool_.give_back(std::move(reader_)); }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        Recording* operator->() const { return reader_.get(); }
        Recording& operator*() const { return *reader_; }

    private:
        RecordingPool& pool_;
        std::unique_ptr<Recording> reader_;
    };
    // Opens another reader when none is free; throws Failure when the file cannot be opened any more.
    Lease lease();

    // A reader that has read nothing of the file before. Throws Failure where another recording lies there now.
    std::unique_ptr<Recording> open_again() const;

    const std::string& path() const { return path_; }
    const std::string& file() const { return file_; } // absolute
    int64_t sequence() const { return sequence_; }
    // All sequences that lie in the file, as it is now.
    std::vector<Sequence> sequences() const;
    // As of the opening, or of the last refresh().
    std::shared_ptr<const RecordingInfo> info() const;
    std::string end_reason() const; // of the sequence, as Sequence::end_reason
    // Looks again at a file that is still being written.
    void refresh();
    // Forgets all readers; later calls fail with a sentence.
    void close();
    bool closed() const;

private:
    void give_back(std::unique_ptr<Recording> reader);
    void leave_to_parent();

    const std::string path_; // as it was given
    const std::string file_; // the same wherever this process's working directory goes
    const int64_t sequence_;
    mutable std::mutex mutex_;
    std::vector<std::unique_ptr<Recording>> free_;
    std::shared_ptr<const RecordingInfo> info_;
    std::string end_reason_;
    int process_;
    bool closed_ = false;
};

// Threads that a computation may use: set_threads(), at first the cores that this process may run on.
int n_threads();
void set_threads(int n);

} // namespace attnscope::python
