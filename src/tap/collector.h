// Turns what the two ways in see (attention nodes with their data) into frames.
#pragma once

#include "tap/attention_graph.h"
#include "tap/cells.h"

#include <attnscope/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::tap {

// Everything needed to prove one head of one token. Pointers are valid during the call only. Columns are cells here.
struct HeadSample {
    const LayerInfo* layer = nullptr;
    int32_t layer_index = 0;
    int32_t head = 0;
    const uint8_t* q = nullptr;       // (n_head, head_dim) in layer->q_type: the captured bytes
    const uint8_t* k = nullptr;       // (n_cells, n_head_kv, head_dim) in the cache
    size_t k_stride = 0;              // bytes from cell to cell
    int64_t n_cells = 0;
    std::span<const Range> visible;   // cells
    std::span<const int32_t> positions; // of the cells
    int32_t position = 0;             // of the query
    const uint8_t* v = nullptr;       // element (dim 0, cell 0) of this head's V
    DType v_type = DType::f16;
    size_t v_cell_stride = 0, v_dim_stride = 0; // bytes
    const float* out = nullptr;       // (head_dim_v): the engine's own attention output
    bool flash = false;
    bool batched = false;             // Frame::batched; with flash attention Q was then multiplied unrounded
    const CellMap* cells = nullptr;
};
using WitnessFunction = std::function<Witness(const HeadSample&)>;

struct CollectorOptions {
    WitnessFunction witness;        // empty: none is taken
    int32_t witnesses_single = 2;   // heads proven for a token decoded alone
    int32_t witnesses_batch = 1;    // heads proven for each token of a batch
};

// Collects one batch at a time: begin, then see() and take() for every attention, then finish().
// Not thread-safe; lives on the decode thread.
class Collector {
public:
    explicit Collector(CollectorOptions options) : options_(std::move(options)) {}

    // `positions`: of the tokens, host memory; null when the graph does not know them (then they follow the index).
    void begin(int64_t n_query, const int32_t* positions);
    // Who sees whom, and where the new keys go. While the inputs of the graph are intact.
    void see(const AttentionNode& node);
    // The layer's Q, (n_query, n_head, head_dim) in q_type_of(node), host memory that stays valid until finish().
    // While K, V and the output of the node are valid.
    void take(const AttentionNode& node, const uint8_t* q);
    // The frames of the batch. Fails when the graph is not what it was before (`error` says how).
    bool finish(std::vector<Frame>& frames, std::string& error);
    void abandon() { open_ = false; }
    bool open() const { return open_; }

    const Geometry& geometry() const { return geometry_; }
    // Which type Q is kept in: the one in which the engine's CPU kernels multiply it with such keys.
    static ggml_type q_type_of(const AttentionNode& node);

    int64_t next_index() const { return next_index_; }
    // Forgets the context: the next frame has index 0.
    void reset();
    // Forgets everything from frame `index` on.
    void truncate(int64_t index);
    // Q of frames for which this returns false is not kept. Empty: all are.
    std::function<bool(int64_t index)> keep_q;

private:
    struct Group { // layers that share a mask and the cells of a cache
        const ggml_tensor* mask = nullptr;
        const ggml_tensor* k_cells = nullptr;
        std::vector<int64_t> written; // the cell of each token's new key
        std::vector<Ranges> cells;   // visible cells, one a token of the batch
        std::vector<Ranges> columns; // the same as columns
        CellMap map;
    };
    struct Taken {
        const uint8_t* q = nullptr;
        AttentionNode node;
        int32_t group = 0;
    };

    int32_t group_of(const AttentionNode& node);
    LayerInfo describe(const AttentionNode& node, int32_t group);
    void prove(const AttentionNode& node, int32_t layer_index, const uint8_t* q);
    void fail(const std::string& why);

    CollectorOptions options_;
    Geometry geometry_;
    bool geometry_known_ = false;
    int64_t next_index_ = 0;
    uint64_t samples_ = 0; // witnesses asked for so far: the place in the sampling order
    bool open_ = false;
    std::string error_;
    int64_t n_unknown_ = 0;

    // of the open batch
    int64_t n_query_ = 0;
    std::vector<int32_t> positions_;
    std::vector<Group> groups_;
    int32_t n_groups_ = 0; // of this batch
    std::vector<LayerInfo> layers_;
    std::vector<Taken> taken_;
    std::vector<std::vector<Witness>> witnesses_; // one list a token
};

} // namespace attnscope::tap
