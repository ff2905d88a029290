// What a graph says of its tokens, found by structure: names of inputs differ from version to version.
#pragma once

#include "attach/inside/cache_contents.h"
#include "capture/graph/attention_graph.h"

#include <attnscope/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::attach {

// Tensors of one graph; valid as long as it is.
struct GraphInputs {
    ggml_tensor* tokens = nullptr;    // i32 (n): rows of the embedding matrix that are looked up
    ggml_tensor* positions = nullptr; // i32 (n or more)
    ggml_tensor* cells =
        nullptr; // i64 (n): where a captured layer, of those with the most cells the first, stores its keys; null: by a copy
    ggml_tensor* copy = nullptr;
    size_t cell_bytes = 0;           // of that layer's keys
    ggml_tensor* mask = nullptr;     // of that layer
    int32_t layer = -1;              // its place among the graph's attentions
    int64_t n_cells = 0;             // of its cache
    std::vector<CacheMemory> caches; // keys and values of all layers
    int64_t n = 0;
    // Tokens of one stream of the cache, and its cells (capture::AttentionNode::stream_cells); 0 cells: the cache has one stream
    int64_t stream_tokens = 0, first_stream = 0, stream_cells = 0;
    int32_t n_vocab = 0;
    const void* embedding = nullptr; // where the rows of the embedding matrix lie
    std::string refusal;             // text with attention that cannot be captured: why; empty otherwise

    // Does it store keys in a cache, of text or of something else (a picture)?
    bool stores() const { return (cells || copy) && n > 0; }
    // Is this a model's text, with keys in a cache?
    bool complete() const { return tokens && (cells || copy) && mask && n > 0; }
};
GraphInputs find_inputs(ggml_cgraph* graph);

// Memory that a graph without attention writes to: keys in a cache are turned to other positions (a context shift).
std::vector<ggml_tensor*> written_views(ggml_cgraph* graph);
// Cells that these inputs store to.
std::vector<int64_t> read_cells(const GraphInputs& inputs);

// What they hold, when the graph is about to run.
struct GraphTokens {
    std::vector<int32_t> ids, positions; // positions: empty where the graph has none
    std::vector<int64_t> cells;
    std::vector<Ranges> visible; // cells
};
GraphTokens read_tokens(const GraphInputs& inputs);

} // namespace attnscope::attach
