#include "support/made_graph.h"

#include <ggml-impl.h>

namespace attnscope::test {

MadeGraph::MadeGraph(const ggml_cgraph* graph) {
    std::unordered_map<const ggml_tensor*, ggml_tensor*> copies;
    std::vector<const ggml_tensor*> originals;
    const auto add = [&](const ggml_tensor* t) {
        if (t && copies.emplace(t, nullptr).second) originals.push_back(t);
    };
    for (int i = 0; i < graph->n_nodes; ++i) {
        add(graph->nodes[i]);
        add(graph->nodes[i]->view_src);
        for (const ggml_tensor* src : graph->nodes[i]->src) add(src);
    }
    const size_t n = originals.size() + 1;
    ctx_.reset(ggml_init({n * ggml_tensor_overhead() + ggml_graph_overhead_custom(n, false), nullptr, true}));
    graph_ = ggml_new_graph_custom(ctx_.get(), n, false);
    for (const ggml_tensor* t : originals) {
        ggml_tensor* copy = ggml_new_tensor_1d(ctx_.get(), t->type, 0);
        *copy = *t;
        copies[t] = copy;
    }
    for (int i = 0; i < graph->n_nodes; ++i) {
        ggml_tensor* node = copies[graph->nodes[i]];
        if (node->view_src) node->view_src = copies[node->view_src];
        for (ggml_tensor*& src : node->src) {
            if (src) src = copies[src];
        }
        ggml_graph_add_node(graph_, node);
    }
    // How often a result is read decides whether the CPU fuses it with its reader.
    for (const ggml_tensor* t : originals) {
        const size_t from = ggml_hash_find(&graph->visited_hash_set, t);
        if (from == GGML_HASHSET_FULL || !ggml_bitset_get(graph->visited_hash_set.used, from)) continue;
        graph_->use_counts[ggml_hash_find_or_insert(&graph_->visited_hash_set, copies[t])] = graph->use_counts[from];
    }
}

} // namespace attnscope::test
