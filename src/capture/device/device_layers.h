// Where the data of each attention of a graph will be once the graph has run, as plain numbers: the graph itself may be
// gone by the time the data has arrived.
#pragma once

#include "capture/graph/attention_graph.h"
#include "capture/collector.h"
#include "capture/device/fetch.h"
#include "capture/device/gather.h"
#include "capture/device/mirror.h"
#include "capture/device/placement.h"

#include <cstdint>
#include <cstring>
#include <vector>

namespace attnscope::capture {

// A tensor inside a block of placed tensors.
struct Placed {
    size_t block = 0, offset = 0;      // of its first element
    size_t token_stride = 0, head_stride = 0; // bytes
};

struct LayerSource {
    bool captured = false;
    Placed q, out;
    Placed q_kept;             // gathered: of the tokens that keep their queries, in the layer's q_type
    bool has_q_kept = false;
    bool on_device = false;    // the layer's cache lies on a device; otherwise:
    HostAttention host;        // K and V where the engine has them
    // on a device
    ggml_backend_dev_t device = nullptr;
    ggml_tensor* k_cache = nullptr; // the engine's
    size_t k_offset = 0;       // of the first key inside it
    bool remote = false;       // the new keys are taken from the graph (k_new), not from the cache
    bool writes_k = false, writes_v = false;
    size_t k_rows_at = 0;      // of this layer's new rows in the fetch's rows, one a token
    Placed k_new, v_new;       // f32
    int64_t k_width = 0, v_width = 0; // elements of a row of K, of V
    DType k_type = DType::f16, v_type = DType::f16;
    size_t k_row_bytes = 0;
    int32_t group = 0;         // Batch::Group with the cells
    bool mirrored = true;      // false: no memory for a mirror
    Mirror* k_mirror = nullptr;
    Mirror* v_mirror = nullptr; // null: V is part of K's cache
    size_t v_offset = 0;       // of V inside a row
    size_t v_head = 0, v_dim = 0;
};

// Describes a node whose tensors `placement` has placed; `layer` is what the collector saw of it.
LayerSource source_of(const AttentionNode& node, const Batch::Layer& layer, const Placement& placement, Mirrors& mirrors);

// The new rows of K that a device's cache holds now, to be fetched; sets k_rows_at. Consecutive cells become one transfer.
// Returns the bytes of all rows.
size_t rows_to_fetch(std::vector<LayerSource>& sources, const std::vector<const ggml_tensor*>& caches, ggml_backend_dev_t device,
                     const Batch& batch, std::vector<Fetch::Rows>& rows);

// Plans what of block `block` goes to the host: the new values, the queries of the tokens from `first_kept` on (of the batch),
// and what the batch's proofs look at. False: the data does not lie as it must.
class BlockGather {
public:
    bool make(size_t block, const std::vector<LayerSource>& sources, const Batch& batch, int64_t first_kept);
    const GatherPlan& plan() const { return plan_; }
    // From now on `sources` say where things are in what arrives. After this the batch's proofs find theirs with arrived().
    void apply(std::vector<LayerSource>& sources) const;
    void arrived(const uint8_t* base, Batch& batch) const;

private:
    struct LayerPlace { size_t layer, at; };
    struct ProofPlace { size_t proof, at; };
    size_t block_ = 0;
    GatherPlan plan_;
    size_t kept_token_ = 0;
    std::vector<LayerPlace> v_new_, q_kept_, q_whole_;
    std::vector<ProofPlace> q_, out_;
};

// A row of floats in a cache's type, as the engine stores it.
void store_f32_row(DType type, const float* from, int64_t n, uint8_t* to);

// Puts the new keys and values of one layer, arrived in host memory, into its mirrors, in the caches' own types.
// `base(block)` is where a block has arrived; `rows` where the device's rows have.
template <typename Base> void store_new(const LayerSource& s, const Batch& batch, const Base& base, const uint8_t* rows) {
    const std::vector<int64_t>& cells = batch.groups[size_t(s.group)].written;
    for (size_t i = 0; i < cells.size(); ++i) {
        if (s.writes_k) {
            uint8_t* to = s.k_mirror->row(cells[i]);
            if (s.remote) {
                const uint8_t* from = base(s.k_new.block) + s.k_new.offset + i * s.k_new.token_stride;
                store_f32_row(s.k_type, reinterpret_cast<const float*>(from), s.k_width, to);
            } else {
                std::memcpy(to, rows + s.k_rows_at + i * s.k_row_bytes, s.k_row_bytes);
            }
        }
        if (s.writes_v) {
            const uint8_t* from = base(s.v_new.block) + s.v_new.offset + i * s.v_new.token_stride;
            store_f32_row(s.v_type, reinterpret_cast<const float*>(from), s.v_width, s.v_mirror->row(cells[i]));
        }
    }
}

} // namespace attnscope::capture
