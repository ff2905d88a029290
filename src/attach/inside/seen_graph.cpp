#include "attach/inside/seen_graph.h"

namespace attnscope::attach {

int seen_graph_n_nodes(ggml_cgraph* graph) {
    return static_cast<int>(reinterpret_cast<SeenGraph*>(graph)->nodes.size());
}
ggml_tensor** seen_graph_nodes(ggml_cgraph* graph) {
    return reinterpret_cast<SeenGraph*>(graph)->nodes.data();
}

} // namespace attnscope::attach
