// What a graph was given: who sees whom, where new keys go, positions.
#pragma once

#include "capture/graph/cells.h"
#include "capture/graph/host_attention.h"

#include <ggml.h>

#include <cstdint>
#include <vector>

namespace attnscope::capture {

// Inputs of a graph, taken before it runs or, where they stay (below), while it does.
class Inputs {
public:
    void clear() { used_ = 0; }
    // Copies a tensor, once.
    void keep(const ggml_tensor* t);
    bool knows(const ggml_tensor* t) const { return find(t) != nullptr; }
    const uint8_t* data(const ggml_tensor* t) const;
    // Which cells the first `n_query` rows of a mask (of all streams together) let be seen, read once. The mask itself
    // is not kept: a prompt's has batch times context elements.
    void keep_mask(const ggml_tensor* mask, int64_t n_query);
    // The cells that row `row` of a mask that was kept lets be seen.
    const Ranges& visible(const ggml_tensor* mask, int64_t row) const;

private:
    struct Copy {
        const ggml_tensor* tensor = nullptr;
        std::vector<uint8_t> bytes;
        std::vector<Ranges> rows; // of a mask, instead
    };
    static void see_streams(Copy& copy, const ggml_tensor* mask, int64_t stream_tokens);
    Copy* add(const ggml_tensor* t); // null: it is there already
    const Copy* find(const ggml_tensor* t) const;
    std::vector<Copy> copies_; // memory is kept from graph to graph
    size_t used_ = 0;
};

// True when inputs in host memory keep their values until the engine sets them for the next graph, that is when nothing
// is computed into host memory after the first device has begun. Otherwise ggml may give an input's memory to a later
// result once the input's last reader is done. Ask when the graph has its memory.
bool inputs_stay(ggml_cgraph* graph, bool (*on_host)(const ggml_tensor*) = is_host);

} // namespace attnscope::capture
