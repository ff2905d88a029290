#include "attach/inside/stream.h"

#include "attach/inside/hooks.h"
#include "capture/graph/hook.h"
#include "capture/graph/host_attention.h"

#include <map>
#include <optional>
#include <utility>

namespace attnscope::attach {

Stream::Stream(uint32_t number, Send send) : number_(number), send_(std::move(send)) {}

void Stream::stop(const std::string& why) {
    on_ = false;
    if (!why.empty()) send_(Notice{why});
    if (begun_) send_(StreamEnd{number_, why});
}

void Stream::end(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (on_) stop(reason);
}

void Stream::before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    const std::lock_guard lock(mutex_);
    if (!on_) return;
    try {
        graph_ = nullptr;
        const GraphInputs inputs = find_inputs(graph);
        if (!inputs.refusal.empty()) return stop("nothing is captured of a context: " + inputs.refusal);
        if (!inputs.complete()) return; // embeddings, pictures, sound: not ours
        inputs_ = inputs;
        if (!capture_) capture_ = capture::Capture::make({}, [this](CapturedFrame&& f) { return take(std::move(f)); });
        capture::Capture::Decode decode(*capture_, {});
        if (capture::GraphHook* hook = current_hook()) hook->before_alloc(sched, graph);
        graph_ = graph;
    } catch (const std::exception& e) {
        stop(std::string("capturing failed: ") + e.what());
    }
}

// Which line each token continues, and what kind it is. False: this graph cannot be captured.
bool Stream::place(const GraphTokens& tokens, std::vector<int64_t>& sequences, std::vector<FrameKind>& kinds) {
    std::map<int64_t, int64_t> length_before; // of lines that this graph continues
    std::map<int64_t, int64_t> n_here;
    std::vector<int64_t> indices;
    for (size_t i = 0; i < tokens.ids.size(); ++i) {
        const int32_t position = tokens.positions.empty() ? static_cast<int32_t>(tokens.cells[i]) : tokens.positions[i];
        const Place place = lines_.place(position, tokens.cells[i], tokens.visible[i]);
        length_before.try_emplace(place.line, place.index);
        ++n_here[place.line];
        sequences.push_back(place.line);
        indices.push_back(place.index);
        if (!place.begins) continue;
        if (place.parent != Lines::none) {
            const auto here = length_before.find(place.parent);
            const int64_t there = here == length_before.end() ? lines_.length(place.parent) : here->second;
            if (place.n_shared > there) {
                stop("a line branches off within one graph, which attach does not follow yet");
                return false;
            }
            capture_->share({place.parent, place.line, place.n_shared, 0, 0}); // both see the same cells
        }
        begins_.push_back({number_, place.line, place.parent, place.n_shared});
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
        const bool alone = n_here[sequences[i]] == 1 && indices[i] > 0;
        kinds.push_back(alone ? FrameKind::generated : FrameKind::prompt);
    }
    return true;
}

ggml_status Stream::compute(ggml_backend_sched_t sched, ggml_cgraph* graph, const std::function<ggml_status()>& run) {
    const std::lock_guard lock(mutex_);
    if (!on_ || graph != graph_) return run();
    GraphTokens tokens;
    std::vector<int64_t> sequences;
    std::vector<FrameKind> kinds;
    std::optional<capture::Capture::Decode> decode;
    try {
        tokens = read_tokens(inputs_);
        if (!place(tokens, sequences, kinds)) return run();
        capture::Tokens announced;
        announced.ids = tokens.ids, announced.positions = tokens.positions;
        announced.sequences = sequences, announced.kinds = kinds;
        announced.in_graph_order = true;
        decode.emplace(*capture_, announced);
        if (current_hook()) current_hook()->before_compute(sched, graph);
    } catch (const std::exception& e) {
        stop(std::string("capturing failed: ") + e.what());
    }
    const ggml_status status = run();
    if (!on_ || !decode) return status;
    try {
        const bool good = status == GGML_STATUS_SUCCESS;
        if (current_hook()) current_hook()->after_compute(sched, graph, good);
        if (Result<void> r = decode->end(good); !r) stop(r.error().message);
    } catch (const std::exception& e) {
        stop(std::string("capturing failed: ") + e.what());
    }
    return status;
}

Result<void> Stream::take(CapturedFrame&& captured) {
    if (!begun_) {
        begun_ = true;
        send_(StreamBegin{number_, inputs_.n_vocab, open_models(), capture_->geometry()});
    }
    for (const SequenceBegin& begin : std::exchange(begins_, {})) send_(begin);
    if (!send_(FrameMessage{number_, std::move(captured.frame)})) {
        return Error{ErrorKind::io, "attnscope attach is gone: nothing is captured any more"};
    }
    return {};
}

} // namespace attnscope::attach
