#include "recording_pool.h"

#include "errors.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

#include <sched.h>
#include <unistd.h>

namespace attnscope::python {

namespace {

int cores() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
    return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

std::atomic<int>& threads() {
    static std::atomic<int> n{cores()};
    return n;
}

// As it was given where the working directory is gone.
std::string absolute(const std::string& path) {
    std::error_code error;
    const auto file = std::filesystem::absolute(path, error);
    return error || path.empty() ? path : file.string();
}

// Readers that are kept for the next call: more than the threads that compute at once would only hold memory.
constexpr size_t max_free = 16;

} // namespace

int n_threads() {
    return threads().load(std::memory_order_relaxed);
}
void set_threads(int n) {
    threads().store(std::clamp(n, 1, 1024), std::memory_order_relaxed);
}

RecordingPool::RecordingPool(std::string path, int64_t sequence)
    : path_(std::move(path)), file_(absolute(path_)), sequence_(sequence), process_(getpid()) {
    free_.push_back(value(Recording::open_sequence(path_, sequence_)));
    info_ = std::make_shared<const RecordingInfo>(free_.back()->info());
    end_reason_ = free_.back()->sequences().front().end_reason;
}

RecordingPool::~RecordingPool() {
    leave_to_parent();
}

// SQLite's connections must not be used, nor closed, in the child of a fork: https://sqlite.org/howtocorrupt.html, section 2.6.
void RecordingPool::leave_to_parent() {
    if (process_ == getpid()) return;
    for (auto& reader : free_) (void)reader.release();
    free_.clear();
    process_ = getpid();
}

RecordingPool::Lease RecordingPool::lease() {
    std::unique_ptr<Recording> reader;
    int64_t n_known = 0;
    {
        const std::scoped_lock lock(mutex_);
        if (closed_) throw Failure{{ErrorKind::invalid_argument, path_ + " was closed; open it again"}};
        leave_to_parent();
        n_known = info_->n_frames;
        if (!free_.empty()) {
            reader = std::move(free_.back());
            free_.pop_back();
        }
    }
    if (!reader) reader = open_again();
    if (reader->info().n_frames < n_known) {
        value(reader->refresh());
        // Somebody replaced the file while it was open.
        if (reader->info().n_frames < n_known) {
            throw Failure{
                {ErrorKind::damaged, path_ + " has fewer tokens than when it was opened: it is another file now"}};
        }
    }
    return {*this, std::move(reader)};
}

void RecordingPool::give_back(std::unique_ptr<Recording> reader) {
    const std::scoped_lock lock(mutex_);
    if (!closed_ && free_.size() < max_free) free_.push_back(std::move(reader));
}

std::shared_ptr<const RecordingInfo> RecordingPool::info() const {
    const std::scoped_lock lock(mutex_);
    return info_;
}

std::string RecordingPool::end_reason() const {
    const std::scoped_lock lock(mutex_);
    return end_reason_;
}

std::unique_ptr<Recording> RecordingPool::open_again() const {
    if (closed()) throw Failure{{ErrorKind::invalid_argument, path_ + " was closed; open it again"}};
    auto reader = value(Recording::open_sequence(file_, sequence_));
    if (reader->info().identity != info()->identity)
        throw Failure{{ErrorKind::damaged, path_ + " was replaced by another recording: open it again"}};
    return reader;
}

std::vector<Sequence> RecordingPool::sequences() const {
    if (closed()) throw Failure{{ErrorKind::invalid_argument, path_ + " was closed; open it again"}};
    return value(Recording::open(file_))->sequences();
}

void RecordingPool::refresh() {
    const Lease reader = lease();
    value(reader->refresh());
    const std::scoped_lock lock(mutex_);
    info_ = std::make_shared<const RecordingInfo>(reader->info());
    end_reason_ = reader->sequences().front().end_reason;
}

void RecordingPool::close() {
    const std::scoped_lock lock(mutex_);
    leave_to_parent();
    free_.clear();
    closed_ = true;
}

bool RecordingPool::closed() const {
    const std::scoped_lock lock(mutex_);
    return closed_;
}

} // namespace attnscope::python
