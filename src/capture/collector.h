// Turns what the two ways in see (attention nodes, then their data) into frames.
#pragma once

#include "base/thread_pool.h"
#include "capture/graph/attention_graph.h"
#include "capture/graph/cells.h"
#include "capture/graph/host_attention.h"
#include "capture/graph/inputs.h"
#include "capture/tokens.h"

#include <attnscope/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace attnscope::capture {

// Everything needed to prove one head of one token. Pointers are valid during the call only. Columns are cells here.
struct HeadSample {
    const LayerInfo* layer = nullptr;
    int32_t layer_index = 0;
    int32_t head = 0;
    const uint8_t* q = nullptr; // (n_head, head_dim) in layer->q_type: the captured bytes
    const uint8_t* k = nullptr; // (n_cells, n_head_kv, head_dim) in the cache
    size_t k_stride = 0;        // bytes from cell to cell
    int64_t n_cells = 0;
    std::span<const Range> visible;     // cells
    std::span<const int32_t> positions; // of the cells
    int32_t position = 0;               // of the query
    const uint8_t* v = nullptr;         // element (dim 0, cell 0) of this head's V
    DType v_type = DType::f16;
    // what the kernel is given of it: its own type, or f16 that the engine makes of f32
    DType v_used = DType::f16;
    size_t v_cell_stride = 0, v_dim_stride = 0; // bytes
    const float* out = nullptr;                 // (head_dim_v): the engine's own attention output
    bool flash = false;
    bool batched = false;             // Frame::batched; with flash attention Q was then multiplied unrounded
    bool device = false;              // computed by a GPU's kernels
    std::span<const int64_t> columns; // of the cells; empty: a cell's number is its column's
    int64_t column(int64_t cell) const { return columns.empty() ? cell : columns[size_t(cell)]; }
};
// Proves samples, at most max_proofs_together; several share layer and head, whose keys and values then are read once for all.
using WitnessFunction = std::function<void(std::span<const HeadSample>, std::span<Witness>)>;
constexpr size_t max_proofs_together = 16;

// What judging a frame needs to know of its queries and keys (proof/judge.h).
struct FrameFacts {
    bool finite = true; // no infinity, no NaN
    bool layers_differ = true;
    std::vector<uint64_t> hashes; // one for each layer's Q and one for its K
};

struct CollectorOptions {
    std::function<WitnessFunction()> witness; // makes one for a thread, with memory of its own; empty: none is taken
    std::function<FrameFacts(const Geometry&, const Frame&)> facts; // called on any thread; empty: frames come without
    int32_t witnesses_single = 2;                                   // heads proven for a token decoded alone
    int32_t witnesses_batch = 1;                                    // heads proven for each token of a batch
};

// Proofs of a batch that run on other threads. Owns what they read, but for K and V.
struct Proving;
// Makes and keeps what threads prove with.
class Provers;

// The tokens of one graph, on their way to frames. Holds no pointer into the graph, which may be gone by the time the
// data of its tensors has arrived.
struct Batch {
    struct Group {                            // layers that share a mask and the cells of a cache
        int64_t stream_cells = 0;             // of the cache: AttentionNode::stream_cells
        std::vector<int64_t> written;         // the cell of each token's new key
        std::vector<Ranges> cells;            // visible cells, one a token, counted in the token's stream
        std::vector<Ranges> columns;          // the same as columns
        std::vector<CellView::Entry> before;  // what cells held before the next batch took them
        const ggml_tensor* mask = nullptr;    // to tell groups apart while the graph is seen; never read later
        const ggml_tensor* k_cells = nullptr; // null: without a cache (token i is cell i), or stored by a copy
        int64_t copied_to = -1;               // the first cell, where keys are stored by a copy
    };
    struct Layer {
        LayerInfo info;
        int32_t group = 0;         // for visibility
        int32_t written_group = 0; // for the cells of its new keys
        int64_t n_cells = 0;
        DType v_type = DType::f16;
        DType v_used = DType::f16; // what the kernel is given of it
        DType q_used = DType::f16; // what it multiplies of Q
        bool flash = false;
        const ggml_tensor* k_cache = nullptr; // an identity only
    };
    // Shared between the batches of a graph that is used again, each of which only adds to what it has alone.
    class Layers {
    public:
        size_t size() const { return all_ ? all_->size() : 0; }
        bool empty() const { return size() == 0; }
        const Layer& operator[](size_t l) const { return (*all_)[l]; }
        const Layer* begin() const { return all_ ? all_->data() : nullptr; }
        const Layer* end() const { return begin() + size(); }
        void reserve(size_t n) { alone().reserve(n); }
        void push_back(Layer layer) { alone().push_back(std::move(layer)); }

    private:
        std::vector<Layer>& alone() {
            if (!all_ || all_.use_count() > 1)
                all_ = all_ ? std::make_shared<std::vector<Layer>>(*all_) : std::make_shared<std::vector<Layer>>();
            return *all_;
        }
        std::shared_ptr<std::vector<Layer>> all_;
    };
    struct Proof {
        int32_t layer = 0, head = 0;
        int64_t token = 0;
        const float* q = nullptr; // the query and the engine's output of this head and token alone; null: from `data`
        const float* out = nullptr;
    };

    Batch();
    ~Batch();

    int64_t n_query = 0;
    ModelPart part = ModelPart::whole;
    int32_t first_layer = 0;           // of its own among the geometry's
    size_t q_before = 0, k_before = 0; // bytes of a frame that are of the layers before them
    bool first_decode = false;         // of a decoder, after its encoder's: gives the keys of cross attention
    std::vector<std::vector<uint8_t>> cross_keys; // (tokens of the encoder, n_head_kv, head_dim), one a layer; or none
    std::vector<int32_t> streams;                 // one a token; empty: all in stream 0
    uint64_t first_sample = 0;                    // place in the sampling order
    int32_t tokens_a_head = 1;
    size_t q_bytes = 0, k_bytes = 0; // of a frame, as far as is known
    std::vector<int32_t> positions;
    std::vector<Group> groups;
    Layers layers;
    std::vector<HostAttention> data; // of the layers taken
    // of layers without a cache: (n_query, n_head_kv, head_dim), one vector a layer
    std::vector<std::vector<uint8_t>> keys;
    std::vector<Frame> frames;
    bool with_facts = false;       // are to be found when they are taken: of whole models whose layers are known
    std::vector<FrameFacts> facts; // of the frames, or none
    std::vector<float> mean;       // CapturedFrame::mean of its only token, or none
    std::vector<Proof> proofs;
    bool overwrites = false; // some of its new keys take cells that earlier tokens held
    int64_t n_unknown = 0;
    std::string error;

    std::unique_ptr<Proving> proving; // under way on other threads

    int64_t stream(int64_t token) const { return streams.empty() ? 0 : streams[size_t(token)]; }
    // Number in the cache of the first cell of the token's stream.
    int64_t first_cell_of_stream(int32_t group, int64_t token) const {
        return stream(token) * groups[size_t(group)].stream_cells;
    }
    int64_t most_columns() const; // of any of its frames
    // The first reason stays.
    void fail(const std::string& why) {
        if (error.empty()) error = why;
    }
};

// The streams that a graph's tokens are in, from one of its attentions; empty where caches have one.
std::vector<int32_t> streams_of(const AttentionNode& node);

struct FrameName {
    int64_t sequence = 0, index = 0;
};

// `n` heads of one token, f32 and `stride` bytes apart, into rows of `type`.
void convert_heads(DType type, const uint8_t* from, size_t stride, int32_t n, int32_t dim, uint8_t* to);

// The same into the layer's q_type, rounded to `used` on the way.
void convert_queries(const LayerInfo& layer, DType used, const uint8_t* from, size_t stride, int32_t n, uint8_t* to);

// The (layer, head) pair, of `n_pairs`, that is proven with `run`, a token or run of neighbours, of a batch that begins
// at `first_sample` of the sampling order. It is proof `w` of the `now` that this token gets; the order counts `each` a
// token. Over many tokens every pair has its turn.
uint64_t proof_pair(uint64_t first_sample, int64_t run, int32_t each, int32_t now, int32_t w, uint64_t n_pairs);

// One batch after another, each in these steps: begin; see() every attention, with the graph's inputs; choose_proofs();
// once the data is there, take() every layer in the same order; finish().
//
// A second batch may begin before the first is finished; they finish in order.
//
// Threads: lives on the decode thread. take() and start_proving() of one batch may run on another thread
// while the decode thread calls nothing but proven() and finish() of earlier batches.
class Collector {
public:
    explicit Collector(CollectorOptions options);

    // The tokens of the graphs that follow; borrowed until the next call.
    void announce(const Tokens& tokens);
    // How many of them no graph has had.
    size_t announced() const { return left_.size(); }
    // The frame of the first of them; without any, of the next one of sequence 0.
    FrameName next() const;
    // Begins a batch of as many of the announced tokens, in their order (or, with streams, in that of
    // Tokens::in_graph_order). `positions`: of the tokens, host memory; null when the graph does not know them.
    // `tokens_a_head`: so many neighbours are proven with the same head, whose keys are then read once.
    std::unique_ptr<Batch> begin(int64_t n_query, const int32_t* positions, std::vector<int32_t> streams = {},
                                 int32_t tokens_a_head = 1);
    // Who sees whom, and where the new keys go. `unfinished`: an earlier batch whose data was not taken yet, or null.
    void see(Batch& batch, const AttentionNode& node, const Inputs& inputs, Batch* unfinished = nullptr);
    // All attentions of a graph that was seen before, whole: what does not depend on its tokens is as it was in `seen`, a batch of
    // the same graph.
    struct Seen {
        Batch::Layers layers;
        std::vector<size_t> first_of_group; // the layer that brought each group
    };
    static Seen seen(const Batch& batch);
    void see_again(Batch& batch, const Seen& seen, std::span<const AttentionNode> nodes, const Inputs& inputs,
                   Batch* unfinished);
    // Once all layers were seen: the batch fails (Batch::error) where they are not those of the batches before it.
    // Nothing of such a batch may be taken.
    void check(Batch& batch) const;
    // The layers are those of `batch`, once all of them are seen, unless they are known: its tokens have proofs then as well.
    void know_layers(const Batch& batch);
    // The heads of layers [begin, end), which were seen, whose turn it is to be proven, into Batch::proofs, by layer. Not twice for
    // a layer.
    void choose_proofs(Batch& batch, size_t begin, size_t end) const;
    // The data of layer `layer` of the batch. Q is converted to the layer's q_type, as the engine's CPU kernels do.
    void take(Batch& batch, size_t layer, const HostAttention& data);
    // Of all layers that were seen, and the facts about the frames, while a core's cache holds them; many tokens on several threads.
    void take(Batch& batch, std::vector<HostAttention> data);
    // Proves the heads that were chosen since the last call; their layers were taken.
    void prove(Batch& batch);
    // The same on up to `n_threads` of the helpers, while K and V stay where they are; everything else is copied.
    void start_proving(Batch& batch, int32_t n_threads, base::ThreadPool& helpers);
    // All layers of its graph were seen.
    bool whole(const Batch& batch) const;
    static bool proven(const Batch& batch);
    static void wait_until_proven(Batch& batch);
    // Completes the batch's frames. Fails when the graph is not what it was before (`error` says how).
    bool finish(Batch& batch, std::string& error);

    // What the cells of a group held when the batch was decoded.
    CellView cells(Batch& batch, size_t group) const;

    // Of a frame that nobody needs any more: the memory of its queries and keys, for those of the next batches.
    void give_back(Frame&& frame);

    const Geometry& geometry() const { return geometry_; }
    // Which type Q is kept in: the one in which the engine's CPU kernels multiply it with such keys.
    static ggml_type q_type_of(const AttentionNode& node);

    int64_t next_index(int64_t sequence = 0) const;
    // Forgets the context: the next frame of every sequence has index 0.
    void reset();
    // Forgets everything of a sequence from frame `index` on.
    void truncate(int64_t sequence, int64_t index);
    // Sequence `to` begins with the first `n` frames of `from`.
    void share(const Shared& shared);
    // Capture::know_cell.
    void know_cell(int32_t group, int64_t cell, int64_t column, int32_t position);
    // Q of frames for which this returns false is not kept. Empty: all are. Not while a batch is taken.
    void want_queries(std::function<bool(int64_t sequence, int64_t index)> wanted) { queries_ = std::move(wanted); }

private:
    // What the graphs of one half of the model have of the geometry.
    struct Part {
        int32_t first_layer = 0, n_layer = 0;
        int32_t n_group = 0; // mask groups of it and those before it
    };
    static size_t place_of(ModelPart part) { return part == ModelPart::decoder ? 1 : 0; }
    const Part* known(const Batch& batch) const {
        return place_of(batch.part) < parts_.size() ? &parts_[place_of(batch.part)] : nullptr;
    }
    void begin_part(Batch& batch);
    // Zeros where its tokens have no queries and keys: those of the model's other half.
    void fill_up(Batch& batch) const;
    void refuse_cross(const Batch& batch, const AttentionNode& node, LayerInfo& info) const;
    void see_cross_cells(const Batch& batch, size_t group);
    int32_t group_of(Batch& batch, const AttentionNode& node);
    static const Batch::Layer* lender(const Batch& batch, const AttentionNode& node);
    void see_group(Batch& batch, size_t index, const AttentionNode& node, const Inputs& inputs, Batch* unfinished);
    void see_bias(Batch& batch, const AttentionNode& node, int32_t group, const Inputs& inputs) const;
    void take_token(Batch& batch, size_t layer, int64_t token) const;
    static void bring_keys_together(Batch& batch, size_t layer);
    void describe(const Batch& batch, const AttentionNode& node, LayerInfo& info) const;
    void proof_query(const Batch& batch, const Batch::Proof& proof, std::vector<uint8_t>& q) const;
    HeadSample sample(const Batch& batch, const Batch::Proof& proof) const;

    CollectorOptions options_;
    size_t next_token(int64_t stream);

    Tokens tokens_;           // announced
    std::deque<size_t> left_; // of them: in no graph so far
    std::function<bool(int64_t sequence, int64_t index)> queries_;
    WitnessFunction prove_; // of the thread that decodes
    std::shared_ptr<Provers> provers_;
    Geometry geometry_;
    std::vector<Part> parts_;               // that are known
    int64_t n_encoded_ = 0;                 // tokens that the encoder read last
    bool decoded_ = false;                  // behind it
    std::map<int64_t, int64_t> next_index_; // by sequence
    uint64_t samples_ = 0;                  // witnesses asked for so far: the place in the sampling order
    std::vector<CellMap> maps_;             // one a group
    std::vector<int64_t> stream_cells_;     // of each; 0: one stream
    std::vector<Frame> spare_;              // given back, their queries and keys empty
};

} // namespace attnscope::capture
