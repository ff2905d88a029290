#include "tap/tap.h"

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include <algorithm>
#include <unordered_set>

namespace attnscope::tap {

// What was added to the graph that is in use. A graph that is used again for the next token has it still.
//
// The additions must be the same in every graph of a model: ggml's allocator applies the plan of an earlier graph to
// a later one with the same number of nodes and sizes that fit, so a copy that moves from one layer to another, or an
// output flag that comes and goes, would let live data be overwritten. Hence all layers, always.
struct GraphTap::Plan {
    GraphAttention found;
    ggml_context_ptr ctx; // of our tensors
    struct Copy {
        size_t node = 0;              // in found.nodes
        ggml_tensor* target = nullptr; // (head_dim, n_head, n_query), contiguous, in our buffer
    };
    std::vector<Copy> copies;
    ggml_cgraph* graph = nullptr;

    // One buffer for each buffer type that holds a layer's keys (one on a CPU). Grows to the largest batch.
    struct Buffer {
        ggml_backend_buffer_type_t type = nullptr;
        ggml_backend_buffer_ptr memory;
        size_t used = 0;
    };
    std::vector<Buffer> buffers;
};

GraphTap::GraphTap(CollectorOptions options, FramesCallback frames)
    : Tap(std::move(options), std::move(frames)), plan_(std::make_unique<Plan>()) {}
GraphTap::~GraphTap() = default;

namespace {

// ggml has no public count of leafs: they are the sources without an operation.
size_t count_leafs(ggml_cgraph* graph) {
    std::unordered_set<const ggml_tensor*> leafs;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        for (const ggml_tensor* src : node->src) {
            if (src && src->op == GGML_OP_NONE) leafs.insert(src);
        }
    }
    return leafs.size();
}

} // namespace

void GraphTap::before_alloc(ggml_backend_sched_t, ggml_cgraph* graph) {
    Plan& plan = *plan_;
    plan.copies.clear();
    plan.ctx.reset();
    plan.graph = graph;
    plan.found = find_attention(graph);
    auto& nodes = plan.found.nodes;
    if (nodes.empty()) return;

    // Each layer adds a view, a copy and a leaf; the scheduler has room for as many as the graph was made for.
    const size_t room = static_cast<size_t>(ggml_graph_size(graph));
    const size_t used = static_cast<size_t>(ggml_graph_n_nodes(graph)) + count_leafs(graph);
    if (used + 3 * nodes.size() + 8 > room) {
        for (AttentionNode& n : nodes) n.refusal = "llama.cpp's graph has no room for the copies (use --entry callback)";
        return;
    }

    plan.ctx.reset(ggml_init({ggml_tensor_overhead() * (3 * nodes.size() + 1), nullptr, true}));
    ggml_context* ctx = plan.ctx.get();
    for (Plan::Buffer& b : plan.buffers) b.used = 0;
    for (size_t i = 0; i < nodes.size(); ++i) {
        AttentionNode& n = nodes[i];
        if (n.refusal.empty() && !ggml_backend_buffer_is_host(n.k_cache->buffer)) {
            n.refusal = "its keys lie on a GPU, from which this version does not fetch (use -ngl 0)";
        }
        if (!n.refusal.empty()) continue;
        const ggml_type type = Collector::q_type_of(n);
        ggml_tensor* target = ggml_new_tensor_3d(ctx, type, n.q->ne[0], n.q->ne[2], n.q->ne[1]);
        ggml_format_name(target, "attnscope_q-%d", n.layer);
        plan.copies.push_back({i, target});
    }
    // Place the targets on the back end of the layer they serve, one behind the other.
    std::vector<std::pair<size_t, size_t>> places; // (buffer, offset)
    for (const Plan::Copy& c : plan.copies) {
        ggml_backend_buffer_type_t type = ggml_backend_buffer_get_type(nodes[c.node].k_cache->buffer);
        size_t b = 0;
        while (b < plan.buffers.size() && plan.buffers[b].type != type) ++b;
        if (b == plan.buffers.size()) {
            plan.buffers.emplace_back();
            plan.buffers.back().type = type;
        }
        Plan::Buffer& buffer = plan.buffers[b];
        places.emplace_back(b, buffer.used);
        const size_t align = std::max<size_t>(ggml_backend_buft_get_alignment(type), 1);
        const size_t size = ggml_backend_buft_get_alloc_size(type, c.target);
        buffer.used += (size + align - 1) / align * align;
    }
    for (Plan::Buffer& b : plan.buffers) {
        if (b.used == 0 || (b.memory && ggml_backend_buffer_get_size(b.memory.get()) >= b.used)) continue;
        b.memory.reset();
        b.memory.reset(ggml_backend_buft_alloc_buffer(b.type, b.used));
        if (!b.memory) {
            for (AttentionNode& n : nodes) n.refusal = "no memory for the copies of the queries";
            plan.copies.clear();
            return;
        }
    }
    for (size_t i = 0; i < plan.copies.size(); ++i) {
        ggml_backend_buffer_t memory = plan.buffers[places[i].first].memory.get();
        auto* base = static_cast<uint8_t*>(ggml_backend_buffer_get_base(memory));
        ggml_backend_tensor_alloc(memory, plan.copies[i].target, base + places[i].second);
    }
    // Insert each copy just before the attention that reads the same Q, so that Q need not live longer. From the back,
    // so that indices found before stay right.
    for (size_t i = plan.copies.size(); i-- > 0;) {
        AttentionNode& n = nodes[plan.copies[i].node];
        ggml_tensor* q = ggml_permute(ctx, n.q, 0, 2, 1, 3); // (head_dim, n_head, n_query)
        ggml_tensor* copy = ggml_cpy(ctx, q, plan.copies[i].target);
        ggml_format_name(copy, "attnscope_copy-%d", n.layer);
        const int before = ggml_graph_n_nodes(graph);
        ggml_build_forward_expand(graph, copy);
        ggml_tensor** all = ggml_graph_nodes(graph);
        std::rotate(all + n.index, all + before, all + ggml_graph_n_nodes(graph));
        // The engine's output of this attention is what the witness compares with: it keeps memory of its own.
        ggml_set_output(n.out);
    }
}

void GraphTap::before_compute(ggml_backend_sched_t, ggml_cgraph* graph) {
    Plan& plan = *plan_;
    if (plan.graph != graph || plan.found.nodes.empty()) return;
    const int32_t* positions = nullptr;
    std::vector<int32_t> copy;
    if (ggml_tensor* p = plan.found.positions) {
        copy.resize(size_t(plan.found.n_query));
        // With several positions a token (M-RoPE) the first n_query are the temporal ones.
        ggml_backend_tensor_get(p, copy.data(), 0, copy.size() * sizeof(int32_t));
        positions = copy.data();
    }
    collector.begin(plan.found.n_query, positions);
    for (const AttentionNode& n : plan.found.nodes) collector.see(n);
}

void GraphTap::after_compute(ggml_backend_sched_t, ggml_cgraph* graph, bool succeeded) {
    Plan& plan = *plan_;
    if (plan.graph != graph || !collector.open()) return;
    if (!succeeded) {
        collector.abandon();
        return;
    }
    size_t next = 0;
    for (size_t i = 0; i < plan.found.nodes.size(); ++i) {
        const uint8_t* q = nullptr;
        if (next < plan.copies.size() && plan.copies[next].node == i) {
            const ggml_tensor* target = plan.copies[next].target;
            q = static_cast<const uint8_t*>(target->data);
            ++next;
        }
        collector.take(plan.found.nodes[i], q);
    }
    deliver();
}

} // namespace attnscope::tap
