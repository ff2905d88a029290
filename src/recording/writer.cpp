#include "recording/writer.h"
#include "recording/codec.h"
#include "recording/geometry_json.h"
#include "recording/schema.h"
#include "recording/writer_item.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <utility>

namespace attnscope::recording {

namespace {

using Clock = std::chrono::steady_clock;

// Whether the disk has room is asked of the system once a batch, and once in so much.
constexpr size_t bytes_between_looks = size_t(4) << 20;

double thread_cpu_seconds() {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

class Writer final : public RecordingWriter {
public:
    Writer(std::unique_ptr<Store> store, const WriterOptions& options, std::optional<Layout> layout)
        : store_(std::move(store)), options_(options), layout_(layout) {
        wake_bytes_ = std::min(options_.commit_bytes, options_.queue_bytes / 2);
    }

    ~Writer() override {
        try {
            (void)end(Ending::incomplete);
        } catch (...) { // a mutex or join failed: nothing that a destructor could still tell anybody
        }
    }

    Result<void> begin(const Geometry& geometry) override {
        const std::string problem = geometry_problem(geometry);
        if (!problem.empty()) return Error{ErrorKind::invalid_argument, "the geometry cannot be recorded: " + problem};
        std::unique_lock lock(mutex_);
        if (error_) return *error_;
        if (ending_ != Ending::none) return closed();
        if (began_) {
            if (geometry_to_json(geometry) == geometry_to_json(geometry_)) return {};
            return Error{ErrorKind::invalid_argument, "a recording has one geometry, and it was stated already"};
        }
        // Until the thread runs, the store is the caller's.
        if (auto r = store_->begin(geometry, layout_.value_or(choose_layout(geometry))); !r) {
            error_ = r.error();
            return r.error();
        }
        geometry_ = geometry;
        return start();
    }

    // Of a store that goes on.
    Result<void> take_up(Written&& written) {
        const std::lock_guard lock(mutex_);
        geometry_ = std::move(written.geometry);
        sequences_ = std::move(written.sequences);
        n_media_ = written.n_media;
        return start();
    }

    Result<void> push(Frame&& frame) override {
        if (!began_) return Error{ErrorKind::invalid_argument, "a frame came before the geometry"};
        if (auto r = is_open(frame.sequence); !r) return r.error();
        const int64_t due = sequences_[size_t(frame.sequence)].n_frames;
        if (frame.index != due) {
            return Error{ErrorKind::invalid_argument,
                         fmt::format("frame {} came where frame {} was due", frame.index, due)};
        }
        const std::string problem = frame_problem(frame, geometry_);
        if (!problem.empty()) {
            return Error{ErrorKind::invalid_argument,
                         fmt::format("frame {} cannot be recorded: {}", frame.index, problem)};
        }
        Sequence& sequence = sequences_[size_t(frame.sequence)];
        const size_t bytes = memory_of(frame);
        if (auto r = enqueue({std::move(frame), bytes}, true); !r) return r.error();
        ++sequence.n_frames;
        return {};
    }

    Result<void> begin_sequence(const Sequence& sequence) override {
        if (!began_) return Error{ErrorKind::invalid_argument, "a sequence came before the geometry"};
        const bool first =
            sequence.id == 0 && sequences_.size() == 1 && sequences_[0].n_frames == 0 && !sequences_[0].ended;
        const std::span<const Sequence> before(sequences_.data(), first ? 0 : sequences_.size());
        const std::string problem = sequence_problem(sequence, before);
        if (!problem.empty()) {
            return Error{ErrorKind::invalid_argument,
                         fmt::format("sequence {} cannot be recorded: {}", sequence.id, problem)};
        }
        if (sequence.geometry != 0)
            return Error{ErrorKind::unsupported, "sequences of another geometry cannot be recorded yet"};
        Sequence begun = sequence;
        begun.n_frames = begun.n_shared;
        begun.ended = false;
        if (auto r = enqueue({begun, sizeof(Item) + begun.label.size()}, true); !r) return r.error();
        if (first) sequences_.clear();
        sequences_.push_back(std::move(begun));
        return {};
    }

    Result<void> end_sequence(int64_t id, const std::string& reason) override {
        if (auto r = is_open(id); !r) return r.error();
        if (reason.size() > max_label_bytes) return Error{ErrorKind::invalid_argument, "the reason is too long"};
        if (auto r = enqueue({EndOfSequence{id, reason}, sizeof(Item) + reason.size()}, began_); !r) return r.error();
        sequences_[size_t(id)].ended = true;
        return {};
    }

    Result<void> add_media(const Media& media) override {
        if (!began_) return Error{ErrorKind::invalid_argument, "a picture came before the geometry"};
        std::string problem = media_problem(media, sequences_);
        if (problem.empty() && n_media_ == max_media) problem = "there are too many already";
        if (!problem.empty()) return Error{ErrorKind::invalid_argument, "the picture cannot be recorded: " + problem};
        const size_t bytes = sizeof(Item) + media.name.size() + media.sha256.size();
        if (auto r = enqueue({media, bytes}, true); !r) return r.error();
        ++n_media_;
        return {};
    }

    void token_text(int32_t token, const std::string& piece) override {
        if (text_bytes_ + piece.size() > max_text_bytes || !known_texts_.insert(token).second) return;
        Text text{token, piece.substr(0, max_piece_bytes)};
        text_bytes_ += text.piece.size();
        const size_t bytes = sizeof(Item) + text.piece.size();
        (void)enqueue({std::move(text), bytes}, began_); // a failed writer says so at the next push
    }

    int64_t recorded() const override { return recorded_.load(std::memory_order_acquire); }

    double cpu_seconds() const override { return cpu_seconds_.load(std::memory_order_relaxed); }

    void on_commit(std::function<void(int64_t)> callback) override {
        const std::lock_guard lock(mutex_);
        callback_ = std::move(callback);
    }

    Result<void> close() override { return end(Ending::complete); }

private:
    enum class Ending { none, incomplete, complete };

    Result<void> start() {
        began_ = true;
        try {
            thread_ = std::thread([this] { run(); });
        } catch (const std::system_error& e) {
            error_ = Error{ErrorKind::io, fmt::format("cannot start the writer's thread: {}", e.what())};
            return *error_;
        }
        return {};
    }

    static Error closed() { return {ErrorKind::invalid_argument, "the recording is closed"}; }

    Result<void> is_open(int64_t id) const {
        if (id < 0 || id >= static_cast<int64_t>(sequences_.size()))
            return Error{ErrorKind::invalid_argument, fmt::format("sequence {} has not begun", id)};
        if (sequences_[size_t(id)].ended)
            return Error{ErrorKind::invalid_argument, fmt::format("sequence {} has ended", id)};
        return {};
    }

    Result<void> enqueue(Item&& item, bool may_wait) {
        std::unique_lock lock(mutex_);
        if (error_) return *error_;
        if (ending_ != Ending::none) return closed();
        // one item always fits, however large: the queue bounds memory, it does not refuse models
        while (may_wait && queued_bytes_ > 0 && queued_bytes_ + item.bytes > options_.queue_bytes && !error_) {
            ++n_waiting_;
            work_.notify_one();
            room_.wait(lock);
            --n_waiting_;
        }
        if (error_) return *error_;
        if (queue_.empty()) oldest_ = Clock::now();
        const bool was_empty = queue_.empty();
        const bool was_few = queued_bytes_ < wake_bytes_;
        queued_bytes_ += item.bytes;
        queue_.push_back(std::move(item));
        // The thread sleeps until the oldest item is due or there is a transaction's worth of them: waking it
        // for every token would take the core from the model each time.
        if (was_empty || (was_few && queued_bytes_ >= wake_bytes_)) work_.notify_one();
        return {};
    }

    Result<void> end(Ending ending) {
        {
            const std::lock_guard lock(mutex_);
            if (ending_ == Ending::none)
                ending_ = ending;
            else if (ending == Ending::complete && ending_ == Ending::incomplete)
                return closed();
        }
        work_.notify_all();
        if (thread_.joinable())
            thread_.join();
        else if (store_)
            run();
        const std::lock_guard lock(mutex_);
        if (error_) return *error_;
        return {};
    }

    // The writer's thread; without a geometry, the thread that closes.
    void run() {
        cpu_start_ = thread_cpu_seconds();
        Result<void> result;
        try {
            result = drain();
        } catch (const std::exception& e) { // std::bad_alloc, or whatever the callback threw
            result = Error{ErrorKind::io, fmt::format("the recording stopped: {}", e.what())};
        } catch (...) {
            result = Error{ErrorKind::io, "the recording stopped: the commit callback threw"};
        }
        store_.reset(); // closes the file on this thread, so that close() returns afterwards
        clock_in();
        std::deque<Item> dropped;
        const std::lock_guard lock(mutex_);
        if (!result && !error_) error_ = result.error();
        dropped.swap(queue_);
        queued_bytes_ = 0;
        room_.notify_all();
    }

    Result<void> drain() {
        for (;;) {
            std::deque<Item> batch;
            Ending ending = Ending::none;
            {
                std::unique_lock lock(mutex_);
                wait_until_due(lock);
                batch.swap(queue_);
                ending = ending_;
            }
            size_t looked_at = 0; // uncommitted bytes when there was room last
            bool tight = store_->is_tight();
            for (Item& item : batch) {
                if (auto r = put(std::move(item)); !r) return r.error();
                const size_t uncommitted = store_->uncommitted_bytes();
                if (!tight && uncommitted >= looked_at + bytes_between_looks) {
                    tight = store_->is_tight();
                    looked_at = uncommitted;
                }
                if (uncommitted >= options_.commit_bytes || (uncommitted > 0 && tight)) {
                    if (auto r = commit(); !r) return r.error();
                    looked_at = 0;
                }
            }
            if (ending == Ending::complete && !error()) {
                if (auto r = store_->finish(); !r) return r.error();
                announce();
                return {};
            }
            if (auto r = commit(); !r) return r.error();
            if (ending != Ending::none) return {};
        }
    }

    void wait_until_due(std::unique_lock<std::mutex>& lock) {
        const auto interval = std::chrono::milliseconds(std::max(0, options_.commit_interval_ms));
        while (ending_ == Ending::none) {
            if (queue_.empty()) {
                work_.wait(lock);
                continue;
            }
            const auto due = oldest_ + interval;
            if (n_waiting_ > 0 || queued_bytes_ >= wake_bytes_ || Clock::now() >= due) return;
            work_.wait_until(lock, due);
        }
    }

    Result<void> put(Item&& item) {
        const size_t bytes = item.bytes;
        Result<void> result =
            std::visit([&](auto&& what) { return put_into(*store_, std::move(what)); }, std::move(item.what));
        item = {};
        const std::lock_guard lock(mutex_);
        queued_bytes_ -= bytes;
        if (n_waiting_ > 0) room_.notify_all();
        return result;
    }

    Result<void> commit() {
        if (auto r = store_->commit(); !r) return r.error();
        announce();
        return {};
    }

    void clock_in() { cpu_seconds_.store(thread_cpu_seconds() - cpu_start_, std::memory_order_relaxed); }

    void announce() {
        clock_in(); // before the number of frames: whoever sees that number sees what it took
        const int64_t n = store_->n_committed();
        if (recorded_.exchange(n, std::memory_order_acq_rel) == n) return;
        std::function<void(int64_t)> callback;
        {
            const std::lock_guard lock(mutex_);
            callback = callback_;
        }
        if (callback) callback(n);
    }

    bool error() {
        const std::lock_guard lock(mutex_);
        return error_.has_value();
    }

    std::unique_ptr<Store> store_;
    const WriterOptions options_;
    const std::optional<Layout> layout_;
    size_t wake_bytes_ = 0;

    // the producer's
    Geometry geometry_;
    bool began_ = false;
    std::vector<Sequence> sequences_ = std::vector<Sequence>(1); // by id; n_frames: pushed
    int64_t n_media_ = 0;
    std::unordered_set<int32_t> known_texts_;
    size_t text_bytes_ = 0;

    std::mutex mutex_;
    std::condition_variable work_; // for the writer's thread
    std::condition_variable room_; // for a producer before a full queue
    std::deque<Item> queue_;
    size_t queued_bytes_ = 0; // of the queue and of the batch that is being written
    int n_waiting_ = 0;
    Clock::time_point oldest_;
    Ending ending_ = Ending::none;
    std::optional<Error> error_;
    std::function<void(int64_t)> callback_;

    std::atomic<int64_t> recorded_ = 0;
    double cpu_start_ = 0; // of the thread that runs run()
    std::atomic<double> cpu_seconds_ = 0;
    std::thread thread_;
};

// Pieces of text that the caller knows beforehand.
Result<void> put_texts(RecordingWriter& writer, const std::string& text_json) {
    if (text_json.empty()) return {};
    const auto texts = nlohmann::json::parse(text_json, nullptr, false);
    if (!texts.is_object()) return Error{ErrorKind::invalid_argument, "text_json is no JSON object"};
    for (const auto& [id, piece] : texts.items()) {
        int32_t token = 0;
        const auto [end, failed] = std::from_chars(id.data(), id.data() + id.size(), token);
        if (failed != std::errc() || end != id.data() + id.size() || !piece.is_string()) {
            return Error{ErrorKind::invalid_argument, "text_json does not map token ids to text"};
        }
        writer.token_text(token, piece.get<std::string>());
    }
    return {};
}

} // namespace

Result<std::unique_ptr<RecordingWriter>> create_writer(const std::string& path, const RecordingInfo& info,
                                                       const WriterOptions& options, std::optional<Layout> layout) {
    if (!info.geometry.layers.empty()) {
        const std::string problem = geometry_problem(info.geometry);
        if (!problem.empty()) return Error{ErrorKind::invalid_argument, "the geometry cannot be recorded: " + problem};
    }
    auto store = Store::create(path, info, options.overwrite);
    if (!store) return store.error();
    std::unique_ptr<RecordingWriter> writer = std::make_unique<Writer>(std::move(*store), options, layout);
    if (auto r = put_texts(*writer, info.text_json); !r) return r.error();
    if (!info.geometry.layers.empty()) {
        if (auto r = writer->begin(info.geometry); !r) return r.error();
    }
    return writer;
}

Result<std::unique_ptr<RecordingWriter>> write_again(const std::string& path, const WriterOptions& options) {
    Written written;
    auto store = Store::open_again(path, written);
    if (!store) return store.error();
    auto writer = std::make_unique<Writer>(std::move(*store), options, std::nullopt);
    if (auto r = writer->take_up(std::move(written)); !r) return r.error();
    return std::unique_ptr<RecordingWriter>(std::move(writer));
}

} // namespace attnscope::recording

namespace attnscope {

Result<std::unique_ptr<RecordingWriter>> RecordingWriter::create(const std::string& path, const RecordingInfo& info,
                                                                 const WriterOptions& options) {
    return recording::create_writer(path, info, options, std::nullopt);
}

} // namespace attnscope
