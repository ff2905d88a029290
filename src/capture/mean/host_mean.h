// The mean of a token's rows on a CPU, computed by the engine's own threads inside the graph, behind each layer's
// attention.
//
// There the layer's keys still lie in the cores' caches. After the graph they would come from memory again, whose rate
// is what bounds decoding on a CPU.
#pragma once

#include "attention/part_rows.h"
#include "capture/collector.h"

#include <attnscope/row_selection.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace attnscope::capture {

class HostMean {
public:
    // As many parts as the engine has threads.
    explicit HostMean(int32_t n_threads);
    ~HostMean();

    // Forgets the graph before, and adds a node behind every attention of this one. Only for a graph of one token whose
    // tensors all lie in host memory, before memory is assigned to it. Each node costs the engine's threads one more
    // barrier.
    void add_to(ggml_cgraph* graph, const GraphAttention& found);
    // The graph is about to run, with these inputs; its nodes compute over the chosen rows.
    // Does nothing where the graph has no nodes of ours, or where this model does not allow it: the batch's mean then stays empty.
    void start(const GraphAttention& found, const Inputs& inputs, const Geometry& geometry, const RowSelection& rows);
    // The graph has run: sets the batch's mean.
    void finish(Batch& batch, const Collector& collector);
    void stop();   // the nodes do nothing until start()
    void forget(); // they are gone

private:
    struct Node { // one attention of the graph
        HostMean* mean = nullptr;
        int32_t work = -1; // place in work_; -1: nothing to do
    };
    struct Work { // one of the layers chosen
        const LayerInfo* info = nullptr;
        const attention::RowsPlan* plan = nullptr;
        HostAttention data;
        size_t visibility = 0; // place in visible_
    };
    struct Visibility { // layers that share a mask and the cells of a cache
        const ggml_tensor* mask = nullptr;
        const ggml_tensor* k_cells = nullptr;
        size_t attention = 0; // one of them: place in GraphAttention::nodes
        Ranges cells;
        int64_t n = 0;
        std::vector<double> sums; // (cells): of the weights of all rows so far
    };
    struct alignas(128) Part {      // one thread's
        std::vector<Range> keys[2]; // of a layer and of the one before it
        std::vector<uint8_t> q;
        attention::FloatQueries float_q;
        std::vector<float> factors; // (n_head)
    };
    std::span<attention::PartShare> shares(size_t work, size_t part) {
        return std::span(shares_[work % 2]).subspan(part * shares_stride_, shares_stride_);
    }
    bool prepare(const GraphAttention& found, const Geometry& geometry);
    static void compute(ggml_tensor* dst, int ith, int nth, void* node);
    void compute_part(size_t work, size_t part, size_t n_parts);
    // Adds the rows of a layer to the sums, once every thread has its part.
    void add_part(size_t work, size_t part, size_t n_parts);

    ContextPtr ctx_; // of the nodes
    std::vector<std::unique_ptr<Node>> nodes_;
    std::vector<attention::RowsPlan> plans_; // one a layer of the geometry, once it is known
    std::vector<Work> work_;
    std::vector<Visibility> visible_;
    RowSelection rows_;           // chosen, as given
    bool prepared_ = false;       // for this graph and for them
    std::vector<uint8_t> chosen_; // (n_head): heads of each layer
    size_t n_rows_ = 0;
    std::vector<Part> parts_;
    std::vector<attention::PartShare> shares_[2]; // (parts, shares_stride_)
    size_t shares_stride_ = 0;                    // heads, rounded up so that parts share no cache line
    std::vector<float> numerators_[2];            // (n_head, stride_), of a layer and of the one before it
    size_t stride_ = 0;
    std::atomic<size_t> n_parts_{0};
    std::atomic<bool> failed_{false};
    bool running_ = false;
};

} // namespace attnscope::capture
