#include "attach/inside/stream.h"

#include "attach/inside/hooks.h"
#include "attach/inside/late_frames.h"
#include "attach/inside/later.h"
#include "capture/graph/hook.h"
#include "capture/graph/host_attention.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>

namespace attnscope::attach {

namespace {

constexpr const char* unknown_cells =
    "text that goes on from what was not captured (a restored state, a picture, a shifted context) is not captured";

} // namespace

Stream::Stream(uint32_t number, WayOut out, Writes writes) : number_(number), out_(out), writes_(writes) {}

void Stream::stop(const char* what, const char* more) noexcept {
    on_ = false;
    {
        const std::lock_guard lock(caches_mutex_);
        caches_.clear();
    }
    try {
        const std::string why = std::string(what) + more;
        if (!why.empty()) out_.now(Notice{why});
        if (begun_) send(StreamEnd{number_, why});
    } catch (const std::exception&) { // no memory for a message that says so
        std::fputs("attnscope: no memory; nothing is captured of a context any more\n", stderr);
    }
}

void Stream::end(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (on_) bring_frames();
    if (on_) stop(reason.c_str());
}

bool Stream::frames_are_late() const {
    const std::vector<LayerInfo>& layers = capture_->geometry().layers;
    return std::any_of(layers.begin(), layers.end(), [](const LayerInfo& l) { return l.on_device; });
}

void Stream::bring_frames() {
    if (!capture_) return;
    try {
        if (Result<void> r = capture_->flush(); !r) stop(r.error().message.c_str());
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
    if (!on_ || n_due_ <= n_taken_) return;
    n_due_ = n_taken_; // what did not come now never will
    tell_frames_due();
}

void Stream::tell_frames_due() {
    if (begun_) out_.now(FramesDue{number_, n_due_});
}

bool Stream::send(Message&& message) {
    if (capture_ && frames_are_late()) return out_.later(std::move(message));
    const bool sent = out_.now(message);
    if (auto* m = std::get_if<FrameMessage>(&message)) capture_->give_back(std::move(m->frame));
    return sent;
}

bool Stream::bring_late_frames() noexcept {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || !rhythm_.rests(Rhythm::Clock::now())) return false;
    if (on_) bring_frames();
    return true;
}

void Stream::before_wait() noexcept {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock && on_ && begun_) capture_->send();
}

void Stream::finish() noexcept {
    const auto start = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex_, std::defer_lock);
    while (!lock.try_lock()) { // another thread computes, and may do so for ever: the program ends all the same
        if (std::chrono::steady_clock::now() - start > std::chrono::seconds(1)) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (on_) bring_frames();
    on_ = false;
}

void Stream::before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    const std::lock_guard lock(mutex_);
    if (!on_) return;
    try {
        graph_ = nullptr;
        written_.clear();
        inputs_ = find_inputs(graph);
        if (!inputs_.refusal.empty()) return stop("nothing is captured of a context: ", inputs_.refusal.c_str());
        if (!inputs_.complete()) { // embeddings, pictures, sound: not ours, but for what they do to a cache that is
            if (begun_ && !inputs_.stores()) written_ = written_views(graph);
            if (begun_ && (inputs_.stores() || !written_.empty())) graph_ = graph;
            return;
        }
        if (!capture_) capture_ = capture::Capture::make({}, [this](CapturedFrame&& f) { return take(std::move(f)); });
        capture::Capture::Decode decode(*capture_, {});
        if (capture::GraphHook* hook = current_hook()) hook->before_alloc(sched, graph);
        graph_ = graph;
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
}

bool Stream::waits_for(const ggml_cgraph* graph) {
    const std::lock_guard lock(mutex_);
    return on_ && graph_ == graph;
}

// Of one graph: what its tokens continue.
struct Stream::Announced {
    std::vector<int64_t> sequences;
    std::vector<FrameKind> kinds;
    std::map<int64_t, int64_t> length_before; // of lines that it continues
    std::vector<int64_t> begun;               // lines that begin with it
    bool looked = false;                      // at all that its tokens see
    std::unordered_set<size_t> again;         // tokens in the place of one of the prompt of their line's parent
};

// Which line each token continues, and what kind it is. False: this graph cannot be captured.
bool Stream::place(const GraphTokens& tokens, Announced& a) {
    std::map<int64_t, int64_t> n_here;
    std::vector<int64_t> indices;
    const CellReadings readings(*this);
    for (size_t i = 0; i < tokens.ids.size(); ++i) {
        if (tokens.cells[i] < 0 || tokens.cells[i] >= inputs_.n_cells) {
            stop("a key is stored outside of its cache");
            return false;
        }
        const int32_t position = tokens.positions.empty() ? static_cast<int32_t>(tokens.cells[i]) : tokens.positions[i];
        if (writes_ == Writes::untold) look_before(tokens, i, a.looked);
        const Place place = lines_.place(position, tokens.cells[i], tokens.visible[i], &readings);
        indices.push_back(place.index);
        if (place.unknown) {
            if (!std::exchange(told_unknown_, true)) out_.now(Notice{unknown_cells});
            a.sequences.push_back(capture::Tokens::nobody);
            continue;
        }
        a.length_before.try_emplace(place.line, place.index);
        ++n_here[place.line];
        if (place.begins) {
            if (const auto end = prompt_ends_.find(place.parent); end != prompt_ends_.end()) {
                if (place.index <= end->second)
                    a.again.insert(i);
                else
                    prompt_ends_.try_emplace(place.line, end->second); // its prompt is that of its parent
            }
            const auto here = a.length_before.find(place.parent);
            const int64_t there = place.parent == Lines::none     ? 0
                                  : here == a.length_before.end() ? lines_.length(place.parent)
                                                                  : here->second;
            // Two continuations that begin in one graph: the second one's parent has no frame yet.
            if (lost_.count(place.parent) > 0 || place.n_shared > there) {
                out_.now(Notice{"a line that branches off within one graph is not captured"});
                lost_.insert(place.line);
            } else {
                // both see the same cells
                if (place.parent != Lines::none) capture_->share({place.parent, place.line, place.n_shared, 0, 0});
                begins_.push_back({number_, place.line, place.parent, place.n_shared});
                a.begun.push_back(place.line);
            }
        }
        const bool lost = lost_.count(place.line) > 0;
        a.sequences.push_back(lost ? capture::Tokens::nobody : place.line);
        if (!lost && inputs_.stream_cells > 0)
            cache_stream_[{place.line, place.index}] = static_cast<int32_t>(tokens.cells[i] / inputs_.stream_cells);
    }
    for (size_t i = 0; i < a.sequences.size(); ++i) {
        const bool alone = n_here[a.sequences[i]] == 1 && indices[i] > 0;
        const bool again = a.again.count(i) > 0;
        a.kinds.push_back(alone && !again ? FrameKind::generated : FrameKind::prompt);
        if (a.kinds.back() == FrameKind::prompt && a.sequences[i] != capture::Tokens::nobody)
            prompt_ends_[a.sequences[i]] = indices[i];
    }
    return true;
}

// The graph failed: nothing of it is in the caches.
void Stream::take_back(const Announced& a) {
    for (const auto& [line, length] : a.length_before) lines_.take_back(line, length);
    std::erase_if(begins_, [&](const SequenceBegin& b) {
        return std::find(a.begun.begin(), a.begun.end(), b.id) != a.begun.end();
    });
    std::erase_if(cache_stream_, [&](const auto& token) {
        const auto line = a.length_before.find(token.first.first);
        return line != a.length_before.end() && token.first.second >= line->second;
    });
}

// A graph that is no text's. What it stores nobody can tell apart from what was there, and it is not there any more.
ggml_status Stream::run_other(ggml_backend_sched_t sched, ggml_cgraph* graph, Run run) {
    std::vector<int64_t> cells;
    try {
        if (begun_) bring_frames(); // they read what it may be about to overwrite
        if (inputs_.stores()) cells = read_cells(inputs_);
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
    const ggml_status status = run(sched, graph);
    if (!on_) return status;
    try {
        forget_cells(cells);
        for (const ggml_tensor* t : written_) {
            const auto begin = reinterpret_cast<uintptr_t>(capture::data(t));
            look_at(begin, begin + capture::nbytes(t));
        }
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
    return status;
}

ggml_status Stream::compute(ggml_backend_sched_t sched, ggml_cgraph* graph, Run run) {
    const std::lock_guard lock(mutex_);
    if (!on_ || graph != graph_) return run(sched, graph);
    if (!inputs_.complete()) return run_other(sched, graph, run);
    GraphTokens tokens;
    Announced placed;
    std::optional<capture::Capture::Decode> decode;
    try {
        tokens = read_tokens(inputs_);
        read_unread(sched, tokens);
        if (!on_ || !place(tokens, placed)) return run(sched, graph);
        capture::Tokens announced;
        announced.ids = tokens.ids, announced.positions = tokens.positions;
        announced.sequences = placed.sequences, announced.kinds = placed.kinds;
        announced.in_graph_order = true;
        decode.emplace(*capture_, announced);
        if (current_hook()) current_hook()->before_compute(sched, graph);
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
    const ggml_status status = run(sched, graph);
    if (!on_ || !decode) return status;
    try {
        const bool good = status == GGML_STATUS_SUCCESS;
        if (good) {
            n_due_ += std::count_if(placed.sequences.begin(), placed.sequences.end(),
                                    [](int64_t s) { return s != capture::Tokens::nobody; });
            if (frames_are_late()) tell_frames_due(); // first: nobody waits for it
        }
        if (current_hook()) current_hook()->after_compute(sched, graph, good);
        if (Result<void> r = decode->end(good); !r) return stop(r.error().message.c_str()), status;
        if (good && frames_are_late()) { // of the first graph it is known now
            if (!begun_) {
                bring_frames();   // so that its caches are known
                wait_for_later(); // and that there is such a stream, before anything is told of it
            }
            rhythm_.computed(Rhythm::Clock::now());
            come_back_to(weak_from_this());
        }
        if (good) return status;
        take_back(placed);
        forget_cells(tokens.cells);
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
    return status;
}

Result<void> Stream::take(CapturedFrame&& captured) {
    if (!begun_) {
        begun_ = true;
        know_caches();
        send(StreamBegin{number_, inputs_.n_vocab, open_models(inputs_.embedding), capture_->geometry()});
    }
    const auto begin = std::find_if(begins_.begin(), begins_.end(),
                                    [&](const SequenceBegin& b) { return b.id == captured.frame.sequence; });
    if (begin != begins_.end()) {
        send(SequenceBegin(*begin));
        begins_.erase(begin);
    }
    remember(captured.frame);
    ++n_taken_;
    FrameMessage message{number_, -1, std::move(captured.frame)};
    if (const auto at = cache_stream_.find({message.frame.sequence, message.frame.index}); at != cache_stream_.end()) {
        message.cache_stream = at->second;
        cache_stream_.erase(at);
    }
    if (!send(std::move(message))) {
        return Error{ErrorKind::io, "attnscope attach is gone: nothing is captured any more"};
    }
    return {};
}

} // namespace attnscope::attach
