// The two ways in. Both give the same frames.
#pragma once

#include "capture/collector.h"
#include "capture/device/mirror.h"
#include "capture/graph/hook.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::capture {

// Gets each batch on the decode thread, in order, once its frames have all but their verdicts.
using BatchCallback = std::function<void(Batch&)>;

class Tap {
public:
    Tap(CollectorOptions options, BatchCallback deliver)
        : collector_(std::move(options)), deliver_(std::move(deliver)) {}
    virtual ~Tap() = default;
    Tap(const Tap&) = delete;
    Tap& operator=(const Tap&) = delete;

    // What went wrong with a batch, in a sentence; empty: nothing. No frames come behind it, until all is forgotten.
    const std::string& error() const { return error_; }
    // Nothing may be on its way.
    void want(Wanted wanted);
    void forget(); // everything, errors too
    void forget(int64_t sequence, int64_t from) { collector_.truncate(sequence, from); }
    void share(const Shared& shared) { collector_.share(shared); }
    void know_cell(int32_t group, int64_t cell, int64_t column, int32_t position) {
        collector_.know_cell(group, cell, column, position);
    }
    void give_back(Frame&& frame) { collector_.give_back(std::move(frame)); }
    int64_t next_index(int64_t sequence) const { return collector_.next_index(sequence); }
    // Around every decode.
    void begin_decode(const Tokens& tokens) { collector_.announce(tokens); }
    void end_decode(bool succeeded);
    // Somebody else tells from now on when devices shall send what a decode has left there (Capture::send()).
    void is_told_when_to_send() { told_when_to_send_ = true; }
    virtual void send() {}
    // Capture::read_back, Capture::mirrored_keys.
    virtual bool read_back(ggml_backend_sched_t, int32_t, const Ranges&) { return false; }
    virtual const uint8_t* mirrored_keys(int32_t) const { return nullptr; }
    // Waits for the frames that are still on their way from a device, and delivers them.
    virtual void flush() {}

    const Geometry& geometry() const { return collector_.geometry(); }
    virtual GraphHook* hook() { return nullptr; } // for the thread that decodes; null: none
    virtual bool reached() const { return true; } // was any graph seen

protected:
    // The engine has been given everything that the decode consists of.
    virtual void after_decode() {}
    void deliver(Batch& batch);
    // The first error stays. `index`: of the first frame that there will not be.
    void fail(int64_t index, const std::string& why);

    Collector collector_;
    Wanted wanted_;
    bool told_when_to_send_ = false;

private:
    BatchCallback deliver_;
    std::string error_;
};

// The interposed way in. While ggml_backend_sched_alloc_graph runs, Q and the output of all layers get memory of ours
// (placement.h), into which the engine then computes.
//
// On a CPU that memory is read when the graph has run. From a device it is fetched, and proven while the next graphs
// run: its frames come some decodes later, and flush() brings the last. after_decode() lets these transfers go behind
// that of the logits.
class GraphTap : public Tap, public GraphHook {
public:
    // `mean_threads`: graphs are prepared for means on a CPU, by so many threads of the engine's (host_mean.h); 0: they are not.
    GraphTap(CollectorOptions options, BatchCallback deliver, int32_t mean_threads);
    ~GraphTap() override;
    void flush() override;
    GraphHook* hook() override { return this; }
    bool reached() const override { return reached_; }
    void send() override;
    bool read_back(ggml_backend_sched_t sched, int32_t group, const Ranges& cells) override;
    const uint8_t* mirrored_keys(int32_t layer) const override;

    void before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) override;
    void before_compute(ggml_backend_sched_t sched, ggml_cgraph* graph) override;
    void after_compute(ggml_backend_sched_t sched, ggml_cgraph* graph, bool succeeded) override;

private:
    struct State;
    struct Arriving; // a batch whose data is on its way
    void after_decode() override;

    // What after_compute() does, in this order.
    std::unique_ptr<Arriving> describe_batch();
    void find_sources(Arriving& arriving);
    void say_what_is_kept(Arriving& arriving);
    bool start_fetches(Arriving& arriving, ggml_backend_sched_t sched);
    bool start_fetch(Arriving& arriving, size_t block, ggml_backend_t engine);
    void start_mean(Arriving& arriving);

    // What happens to a batch once its graph has run.
    void complete();
    void take(Arriving& arriving);
    void settle();
    void deliver_proven(size_t waiting);

    std::unique_ptr<State> state_;
    bool reached_ = false;
};

// Through the public cb_eval, for builds where nothing can be interposed. Costs a stop of the graph at each layer.
class CallbackTap : public Tap {
public:
    using Tap::Tap;
    // For llama_context_params: cb_eval = eval, cb_eval_user_data = this.
    static bool eval(ggml_tensor* t, bool ask, void* user_data);

private:
    void after_decode() override;
    struct Store {
        ggml_tensor* node = nullptr; // SET_ROWS
        bool taken = false;          // by the layer that stores it; whoever reads the same cache later borrows it
    };
    bool wants(ggml_tensor* t);
    void node_done(ggml_tensor* t);
    void start_if_needed(const AttentionNode& first);
    bool whole() const; // every layer of the batch was seen
    AttentionNode attention(ggml_tensor* t);
    void take(AttentionNode& node);
    void take_without_cache(const AttentionNode& node, HostAttention& attention);

    std::unique_ptr<Batch> batch_;
    // Of the graph that runs. The engine uses the memory of inputs again as soon as their last reader has run: each is copied behind
    // the first one.
    Inputs inputs_;
    const ggml_tensor* positions_ = nullptr;
    std::map<const ggml_tensor*, Store> stores_; // by cache tensor
    // f32, by the scores made of it, until the layer's output is there
    std::map<const ggml_tensor*, std::vector<uint8_t>> q_;
    std::map<const ggml_tensor*, std::vector<uint8_t>> k_; // likewise, without a cache
    std::vector<uint8_t> v_;                               // of the layer that is taken, likewise
    Mirrors mirrors_;                                      // of caches on devices
    int last_layer_ = -1;
};

} // namespace attnscope::capture
