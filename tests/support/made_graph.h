// A graph as it was when it was given to a device: whoever gave it may build the next one in the same memory at once.
#pragma once

#include <ggml-cpp.h>
#include <ggml.h>

#include <unordered_map>
#include <vector>

namespace attnscope::test {

class MadeGraph {
public:
    explicit MadeGraph(const ggml_cgraph* graph);
    ggml_cgraph* get() { return graph_; }

private:
    ggml_context_ptr ctx_;
    ggml_cgraph* graph_ = nullptr;
};

} // namespace attnscope::test
