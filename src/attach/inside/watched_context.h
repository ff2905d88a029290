// One context of a program whose scheduler we cannot come before: it asks our back end which operations that one computes, and has it
// compute one. From what it asks about, the graph; from when it has that one computed, that all layers are done.
#pragma once

#include "attach/inside/program.h"
#include "attach/inside/seen_graph.h"
#include "capture/graph/attention_graph.h"

#include <cstddef>
#include <memory>
#include <vector>

struct link_map;

namespace attnscope::attach {

class WatchedContext {
public:
    explicit WatchedContext(link_map* holder) : holder_(holder) {}
    ~WatchedContext();
    WatchedContext(const WatchedContext&) = delete;
    WatchedContext& operator=(const WatchedContext&) = delete;

    // While it splits a graph the scheduler asks, first about leaves, then about operations in their order: does our back end compute
    // this one? `n_functions`: probe_structures.
    bool computes(const ggml_tensor* op, size_t n_functions) noexcept;
    // The scheduler has what we said that we compute computed. False: we have said nothing.
    bool compute() noexcept;

private:
    bool is_behind_all_layers(const ggml_tensor* op) const;
    bool take(ggml_tensor* last_norm, size_t n_functions);
    void begin_graph();
    void look_behind(const ggml_tensor* op);
    bool keep_inputs(ggml_cgraph* graph);
    ggml_backend_sched_t key() { return reinterpret_cast<ggml_backend_sched_t>(this); }

    link_map* const holder_;
    std::vector<ggml_tensor*> asked_; // operations of the graph that is being split
    bool closed_ = false;             // the last norm of this graph has been met
    bool ever_closed_ = false;
    int n_without_ = 0; // graphs in which nothing was met
    bool off_ = false;
    ggml_tensor* ours_ = nullptr; // the operation that we compute
    SeenGraph graph_;
    capture::BufferPtr inputs_; // memory for what the graph is given: it must be there when all layers are done
};

} // namespace attnscope::attach
