// One context of the program: the graphs of one scheduler, into messages.
#pragma once

#include "attach/inside/cache_contents.h"
#include "attach/inside/cell_set.h"
#include "attach/inside/graph_inputs.h"
#include "attach/inside/lines.h"
#include "attach/inside/outbox.h"
#include "attach/inside/rhythm.h"
#include "capture/capture.h"

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

namespace attnscope::attach {

// How messages leave, for several streams at once. False: nothing goes out any more.
struct WayOut {
    bool (*now)(const Message&);
    bool (*later)(Message&&); // behind those before it, on a thread of ours
};
// The program's ggml computes a graph.
using Run = ggml_status (*)(ggml_backend_sched_t, ggml_cgraph*);

// What writes to caches and is no graph (a restored state, a prompt cache): are we told, or has it to be found out by looking?
enum class Writes : uint8_t { told, untold };

// What is there behind a write: something that may be known, or nothing (memory that was cleared).
enum class Leaves : uint8_t { something, nothing };

// Never throws, and never fails the program: after an error it lets all graphs pass by.
class Stream : public std::enable_shared_from_this<Stream> {
public:
    Stream(uint32_t number, WayOut out, Writes writes);
    void before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph);
    // Is that graph one to be told of when it is computed?
    bool waits_for(const ggml_cgraph* graph);
    // Around `run`, which computes the graph.
    ggml_status compute(ggml_backend_sched_t sched, ggml_cgraph* graph, Run run);
    // The program is about to wait for its devices, which it has asked for logits: those come first, and then what we ask for.
    void before_wait() noexcept;
    void end(const std::string& reason);
    // Its scheduler goes, its caches need not: a context makes another one for a picture whose patches see one another, and for adapters.
    // False: it has ended.
    bool rest();
    // A graph of a scheduler that nothing is known of has these caches: are they its own?
    bool rests_on(const std::vector<CacheMemory>& caches) const;
    // It goes on with them, with what lies in them now. False: nothing there is known, and it has ended.
    bool wake();
    bool has_begun();
    // That memory is about to go. False: no cache of its lies there.
    bool loses(const void* buffer);
    // Frames of devices come some tokens late. Brings those of a stream that rests. False: it computes.
    bool bring_late_frames() noexcept;
    // The program ends: brings all frames, and lets every graph pass by from now on.
    void finish() noexcept;

    // Does memory of the caches lie there? Called on any thread, whatever else goes on.
    bool has_cache_at(uintptr_t begin, uintptr_t end) const;
    // Somebody writes there who is no graph of ours: before, and when it is done.
    void before_write();
    void after_write(uintptr_t begin, uintptr_t end, Leaves leaves);

private:
    struct Announced;
    class CellReadings;
    bool place(const GraphTokens& tokens, Announced& announced);
    void take_back(const Announced& announced);
    bool frames_are_late() const; // some layers are on devices
    void bring_frames();
    void tell_frames_due();
    // In the order of these calls, and behind the program's back where frames are late.
    bool send(Message&& message);
    ggml_status run_other(ggml_backend_sched_t sched, ggml_cgraph* graph, Run run);
    // What lies in cells of caches, told by the bytes there. How many are known.
    int64_t look_at(uintptr_t begin, uintptr_t end, Leaves leaves = Leaves::something);
    int64_t look_at(const CacheMemory& cache, uintptr_t begin, uintptr_t end);
    std::vector<uint64_t> known_cells(const CacheMemory& cache) const; // each by its bytes; 0: unknown
    void forget_cells(const std::vector<int64_t>& cells);
    // Cells of layers on devices, and of those that share their masks.
    bool lies_on_devices(int32_t group) const;
    void note_written(const CacheMemory& cache, uintptr_t begin, uintptr_t end, Leaves leaves);
    std::vector<Ranges> unread_cells(const GraphTokens& tokens);
    void read_unread(ggml_backend_sched_t sched, const GraphTokens& tokens);
    // Before a token of a graph has its place, where nobody tells of writes: do the cells that it sees still hold what they did?
    void look_before(const GraphTokens& tokens, size_t i, bool& looked);
    std::vector<KnownToken> content_of(const CacheMemory& cache, int64_t cell) const; // the latest last
    std::optional<CacheMemory> telling_cache() const;                                 // whose cells lines_ knows
    // In host memory; null: it is not there.
    const uint8_t* key_at(const CacheMemory& cache, int64_t cell, size_t bytes) const;
    uint64_t all_keys(size_t group, int64_t cell) const;
    int32_t group() const; // of the caches whose cells lines_ knows
    void know_caches();
    void remember(const Frame& frame);
    Result<void> take(CapturedFrame&& frame);
    void stop(const char* what, const char* why = "") noexcept;

    std::mutex mutex_; // a program may decode on one thread now and on another one later
    const uint32_t number_;
    const WayOut out_;
    const Writes writes_;
    bool on_ = true;
    bool begun_ = false; // StreamBegin was sent
    std::unique_ptr<capture::Capture> capture_;
    ggml_cgraph* graph_ = nullptr; // the one whose inputs these are
    GraphInputs inputs_;
    std::vector<ggml_tensor*> written_; // of a graph without attention
    Lines lines_;
    std::unordered_set<int64_t> lost_;       // lines that are followed, but not captured
    std::map<int64_t, int64_t> prompt_ends_; // by line: where its last token of a prompt is
    std::vector<SequenceBegin> begins_;      // not sent: the geometry must be first, and frames that they share
    // Of tokens whose frames have not come yet, by line and index: the stream of a cache that has several.
    std::map<std::pair<int64_t, int64_t>, int32_t> cache_stream_;
    int64_t n_taken_ = 0, n_due_ = 0; // frames that came; of layers on devices: that will have come
    Rhythm rhythm_;
    std::vector<TellingLayer> telling_; // by mask group
    std::vector<CacheContents> contents_;
    // By mask group, of layers on devices: what was written by somebody who is no graph, and not looked at since.
    std::vector<CellSet> unread_;
    std::vector<std::pair<CacheMemory, std::vector<uint64_t>>> rested_; // what lay in the cells when its scheduler went
    bool told_unknown_ = false;

    mutable std::mutex caches_mutex_; // never held while anything else is waited for
    std::vector<CacheMemory> caches_;
};

// Of the caches, as they are when asked.
class Stream::CellReadings : public Readings {
public:
    explicit CellReadings(const Stream& stream) : stream_(stream) {}
    std::vector<KnownToken> of(int64_t cell) const override;
    bool holds(int64_t cell, int64_t line, int64_t index) const override;

private:
    const Stream& stream_;
};

// GGUF files that this process has open, or has opened by name lately. First the one that is mapped where `weight` lies.
std::vector<std::string> open_models(const void* weight);
void remember_model(const char* path) noexcept;

} // namespace attnscope::attach
