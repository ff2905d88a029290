// The way in: what libllama asks of ggml's scheduler, seen before and after, on the thread that decodes.
#pragma once

#include <ggml-backend.h>
#include <ggml.h>

namespace attnscope::capture {

class GraphHook {
public:
    virtual ~GraphHook() = default;
    // The whole graph, before any memory is assigned: nodes may be added.
    virtual void before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) = 0;
    // Inputs are set, nothing has run. Also called when the graph of the previous token is used again.
    virtual void before_compute(ggml_backend_sched_t sched, ggml_cgraph* graph) = 0;
    // The graph was handed to its back ends: on a CPU it has run, on a GPU it may still be running.
    virtual void after_compute(ggml_backend_sched_t sched, ggml_cgraph* graph, bool succeeded) = 0;
};

// While alive, graphs computed by this thread are shown to `hook`. Nests; the innermost counts.
class HookScope {
public:
    explicit HookScope(GraphHook* hook);
    ~HookScope();
    HookScope(const HookScope&) = delete;
    HookScope& operator=(const HookScope&) = delete;

private:
    GraphHook* outer_;
};

} // namespace attnscope::capture
