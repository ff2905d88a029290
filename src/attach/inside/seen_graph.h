// A graph of which the scheduler has asked us about some operations: as find_attention wants it.
#pragma once

#include "capture/graph/ggml_abi.h"

#include <span>
#include <vector>

namespace attnscope::attach {

struct SeenGraph {
    std::vector<ggml_tensor*> nodes; // in an order in which they could run

    // Takes the place of ggml's own, of which nothing but these two functions is asked.
    ggml_cgraph* as_graph() { return reinterpret_cast<ggml_cgraph*>(this); }
};
int seen_graph_n_nodes(ggml_cgraph* graph);
ggml_tensor** seen_graph_nodes(ggml_cgraph* graph);

} // namespace attnscope::attach
