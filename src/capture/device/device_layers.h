// Where the data of each attention will be once its graph has run, as plain numbers: the graph itself may be gone by
// the time the data has arrived.
#pragma once

#include "capture/collector.h"
#include "capture/device/fetch.h"
#include "capture/device/gather.h"
#include "capture/device/mirror.h"
#include "capture/device/placement.h"
#include "capture/graph/attention_graph.h"

#include <attnscope/error.h>

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

namespace attnscope::capture {

// A tensor inside a block of placed tensors.
struct Placed {
    size_t block = 0, offset = 0;             // of its first element
    size_t token_stride = 0, head_stride = 0; // bytes
    // Where the graph computes several streams of a cache: tokens of each, one stream behind the other. 0: there is one.
    int64_t stream_tokens = 0;
    size_t stream_stride = 0;
    size_t token_at(size_t i) const {
        const auto n = size_t(stream_tokens);
        return n == 0 ? i * token_stride : i / n * stream_stride + i % n * token_stride;
    }
};

// A layer whose cache the engine has in host memory: K and V stay there until the next graph.
struct HostLayer {
    HostAttention engine;
};

// A layer whose cache lies on a device. Its keys and values are read from mirrors, which get the new ones.
struct DeviceLayer {
    // Rows of f32 that the graph stored in a cache, out of a block; they go to a mirror in the cache's type.
    struct Stored {
        Placed at;
        int64_t width = 0; // elements of a row
        DType type = DType::f16;
    };
    // Rows of the cache itself: at `at` of what the device's fetch brings, one a token, `token` bytes from one to the next.
    struct Fetched {
        size_t at = 0, token = 0;
    };

    ggml_backend_dev_t device = nullptr;
    ggml_tensor* k_cache = nullptr;  // the engine's
    const uint8_t* k = nullptr;      // of the first key, on the device
    size_t k_offset = 0, k_cell = 0; // of the first key inside the cache; bytes from cell to cell
    int64_t stream_cells = 0;        // where the cache has several streams: cells of each
    int32_t group = 0;               // Batch::Group with the cells of the new keys
    // The new keys. Of a remote device they are taken from the graph; none: they are another layer's.
    std::variant<std::monostate, Fetched, Stored> k_new;
    std::optional<Stored> v_new; // none: V is part of K's cache, or another layer's
    Mirror* k_mirror = nullptr;
    Mirror* v_mirror = nullptr; // k_mirror, where V is part of K's cache
    size_t v_offset = 0;        // of V inside a row
    size_t v_head = 0, v_dim = 0;
};

// A layer without a cache: K and V lie in blocks as Q does.
struct GraphLayer {
    Placed k, v;
    size_t v_dim = 0;    // bytes from an element of V to the next
    bool device = false; // computed by other kernels than the CPU's
};

// Where a captured layer of a batch lies.
struct LayerSource {
    Placed q, out;
    std::optional<Placed> q_kept; // gathered: of the tokens that keep their queries, in the layer's q_type
    std::variant<HostLayer, DeviceLayer, GraphLayer> cache;

    const DeviceLayer* device() const { return std::get_if<DeviceLayer>(&cache); }
    DeviceLayer* device() { return std::get_if<DeviceLayer>(&cache); }
};
// One a layer of the batch; none where the layer is not captured.
using LayerSources = std::vector<std::optional<LayerSource>>;

// Describes the layer of a node whose tensors `placement` has placed; `layer` is what the collector saw of it. Fails where
// there is no memory for a mirror.
Result<std::optional<LayerSource>> source_of(const AttentionNode& node, const Batch::Layer& layer,
                                             const Placement& placement, Mirrors& mirrors);

// Has the new rows of K that lie in a device's cache fetched, and says where they will be (Fetched). Consecutive cells become one
// transfer; where there are few tokens in cells of their own, as of a server's slots, the layers of each token do, since their caches
// lie at equal distances. Returns the bytes of all rows.
size_t rows_to_fetch(LayerSources& sources, ggml_backend_dev_t device, const Batch& batch,
                     std::vector<Fetch::Rows>& rows);

// Plans what goes to the host of block `block`: the new values, the queries of the batch's tokens from `first_kept` on,
// and what its proofs look at. False: the data does not lie as it must.
class BlockGather {
public:
    bool make(size_t block, const LayerSources& sources, const Batch& batch, int64_t first_kept);
    const GatherPlan& plan() const { return plan_; }
    // From now on `sources` say where things are in what arrives. After this the batch's proofs find theirs with arrived().
    void apply(LayerSources& sources) const;
    void arrived(const uint8_t* base, Batch& batch) const;

private:
    struct LayerPlace {
        size_t layer, at;
    };
    struct ProofPlace {
        size_t proof, at;
    };
    size_t block_ = 0;
    GatherPlan plan_;
    size_t kept_token_ = 0;
    std::vector<LayerPlace> v_new_, q_kept_, q_whole_;
    std::vector<ProofPlace> q_, out_;
};

// A row of floats in a cache's type, as the engine stores it.
void store_f32_row(DType type, const float* from, int64_t n, uint8_t* to);

// Puts one layer's new keys and values, which have arrived in host memory, into its mirrors, in the caches' own types.
// `bases`: where each block has arrived; `rows`: where the device's rows have.
void store_new(const DeviceLayer& layer, const Batch& batch, std::span<const uint8_t* const> bases,
               const uint8_t* rows);
// The layer's tensors in host memory. `first_kept`: the token that q_kept begins with.
HostAttention arrived_at(const LayerSource& source, std::span<const uint8_t* const> bases, int64_t first_kept);

} // namespace attnscope::capture
