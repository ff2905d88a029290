// The two ways in. Both give the same frames.
#pragma once

#include "capture/collector.h"
#include "capture/graph/hook.h"
#include "capture/device/mirror.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::capture {

// Frames of one batch, on the decode thread, as soon as the batch has run; and the facts about them, where they were found out
// already (else empty).
using FramesCallback = std::function<void(std::vector<Frame>&&, std::vector<FrameFacts>&&)>;

class Tap {
public:
    Tap(CollectorOptions options, FramesCallback frames)
        : collector(std::move(options)), frames_(std::move(frames)) {}
    virtual ~Tap() = default;
    Tap(const Tap&) = delete;
    Tap& operator=(const Tap&) = delete;

    // What went wrong with a batch; empty: nothing. Stays until reset.
    const std::string& error() const { return error_; }
    // Ends a batch whose end the tap cannot see itself. After every llama_decode.
    virtual void end_decode() {}
    // Waits for the frames that are still on their way from a device, and delivers them.
    virtual void flush() {}
    // Forgets the context: the next frame has index 0. Nothing may be on its way.
    void reset() {
        error_.clear();
        collector.reset();
    }

    Collector collector;
    // GraphTap: Frame::mean of the tokens that follow is computed beside the model where it can be, over these layers and heads
    // of each of them (empty: all).
    bool device_mean = false;
    std::vector<int32_t> mean_layers, mean_heads;
    std::function<bool(int64_t index)> mean_wanted; // of which frames; empty: all

protected:
    bool wants_mean(int64_t index) const { return device_mean && (!mean_wanted || mean_wanted(index)); }
    void deliver(Batch& batch);
    FramesCallback frames_;
    std::string error_;
};

// Through ggml_backend_sched_alloc_graph: the engine computes Q and the output of all layers into memory of ours
// (placement.h). On a CPU it is read when the graph has run; from a device it is fetched and proven while the next graphs run, so
// that its frames come some decodes later (flush() brings the last). end_decode() lets what a device sends go behind the logits. Used with a HookScope around llama_decode.
class GraphTap : public Tap, public GraphHook {
public:
    // `mean_threads`: graphs are prepared for means on a CPU, by so many threads of the engine's (host_mean.h); 0: they are not.
    GraphTap(CollectorOptions options, FramesCallback frames, int32_t mean_threads = 0);
    ~GraphTap() override;
    void before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) override;
    void before_compute(ggml_backend_sched_t sched, ggml_cgraph* graph) override;
    void after_compute(ggml_backend_sched_t sched, ggml_cgraph* graph, bool succeeded) override;
    void end_decode() override;
    void flush() override;

private:
    struct Plan;
    struct Arriving; // a batch whose data is on its way
    void complete();
    void settle();
    void take(Arriving& arriving);
    void deliver_proven(size_t waiting);
    std::unique_ptr<Plan> plan_;
};

// Through the public cb_eval, for builds where nothing can be interposed. Costs a stop of the graph at each layer.
class CallbackTap : public Tap {
public:
    using Tap::Tap;
    // For llama_context_params: cb_eval = eval, cb_eval_user_data = this.
    static bool eval(ggml_tensor* t, bool ask, void* user_data);
    void end_decode() override;

private:
    bool wants(ggml_tensor* t);
    void node_done(ggml_tensor* t);
    void start_if_needed(int64_t n_query);
    void take(AttentionNode& node);

    std::unique_ptr<Batch> batch_;
    ggml_tensor* positions_ = nullptr;
    std::map<const ggml_tensor*, ggml_tensor*> stored_by_; // cache tensor -> its SET_ROWS
    std::map<int, std::vector<uint8_t>> q_;              // f32, by layer, until the layer's output is there
    Mirrors mirrors_;                                    // of caches on devices
    int last_layer_ = -1;
    int n_flash_ = 0;
};

} // namespace attnscope::capture
