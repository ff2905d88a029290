// The two ways in. Both give the same frames.
#pragma once

#include "tap/collector.h"
#include "tap/hook.h"

#include <memory>
#include <string>
#include <vector>

namespace attnscope::tap {

// Frames of one batch, on the decode thread, as soon as the batch has run.
using FramesCallback = std::function<void(std::vector<Frame>&&)>;

class Tap {
public:
    Tap(CollectorOptions options, FramesCallback frames)
        : collector(std::move(options)), frames_(std::move(frames)) {}
    virtual ~Tap() = default;
    Tap(const Tap&) = delete;
    Tap& operator=(const Tap&) = delete;

    // What went wrong with the last batch; empty: nothing.
    const std::string& error() const { return error_; }
    // Ends a batch whose end the tap cannot see itself. After every llama_decode.
    void end_decode();

    Collector collector;

protected:
    void deliver();
    FramesCallback frames_;
    std::string error_;
};

// Through ggml_backend_sched_alloc_graph: Q of all layers is copied inside the graph into one buffer of ours, and one
// transfer takes it out. Used with a HookScope around llama_decode.
class GraphTap : public Tap, public GraphHook {
public:
    GraphTap(CollectorOptions options, FramesCallback frames);
    ~GraphTap() override;
    void before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) override;
    void before_compute(ggml_backend_sched_t sched, ggml_cgraph* graph) override;
    void after_compute(ggml_backend_sched_t sched, ggml_cgraph* graph, bool succeeded) override;

private:
    struct Plan;
    std::unique_ptr<Plan> plan_;
};

// Through the public cb_eval, for builds where nothing can be interposed. Costs a stop of the graph at each layer.
class CallbackTap : public Tap {
public:
    using Tap::Tap;
    // For llama_context_params: cb_eval = eval, cb_eval_user_data = this.
    static bool eval(ggml_tensor* t, bool ask, void* user_data);

private:
    bool wants(ggml_tensor* t);
    void node_done(ggml_tensor* t);
    void start_if_needed(int64_t n_query);

    ggml_tensor* positions_ = nullptr;
    std::map<const ggml_tensor*, ggml_tensor*> cells_of_;
    std::map<int, std::vector<uint8_t>> q_;              // by layer, until finish()
    int last_layer_ = -1;
    int n_flash_ = 0;
};

} // namespace attnscope::tap
