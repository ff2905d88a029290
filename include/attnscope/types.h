// What a capture consists of. Plain data: no graphs, no files, no threads.
//
// Words (see docs/architecture.md): a *sequence* is one line of text that the engine continues; a capture holds one or
// several. A *frame* is what one decoded token yields; its *index* is its place in its sequence (0, 1, 2, ...), its
// *position* what the engine numbered it. Columns of every row are indices of frames of one sequence: never cells of the
// KV cache, never frames of another sequence. In a sequence without edits index == position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace attnscope {

// Element types as they lie in the engine's cache. The numbers are ggml's (enum ggml_type) and part of the file format.
enum class DType : int32_t {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q8_1 = 9,
    iq4_nl = 20,
    bf16 = 30,
};

const char* dtype_name(DType type);                   // "f16", "q8_0", ...; "?" when unknown
bool dtype_known(int32_t number);                     // is it one of the above
int32_t dtype_block(DType type);                      // elements in a block (1 for f32, f16, bf16; 32 otherwise)
size_t dtype_row_bytes(DType type, int64_t elements); // bytes of `elements` elements; a multiple of dtype_block

// Where the keys of a layer come from, and so what its columns are.
enum class KeySource : int32_t {
    cache = 0,    // the engine's KV cache: columns are frames of the query's own sequence
    graph = 1,    // a tensor of the graph that computes the query: columns are frames of the query's own sequence. An
                  // encoder's are all of its text, later ones too, decoded together; those of cross attention the text
                  // that the encoder read (LayerRole)
    sequence = 2, // cross attention: columns are frames of another sequence, Sequence::keys_of
};
const char* key_source_name(KeySource source); // "cache", "graph", "sequence"

// Which tokens have a query and a key in a layer. Others than `every` are of a model that reads a text with an encoder and
// writes with a decoder (T5): its frames are one sequence, the encoder's text first, then what the decoder begins with and
// writes, whose positions begin at 0 again. Where a token has no query or key its frame holds zeros.
enum class LayerRole : int32_t {
    every = 0,   // all tokens have both
    encoder = 1, // tokens of the encoder's text have both, and see all of it
    decoder = 2, // tokens of the decoder have both, and see those of the decoder up to themselves
    cross = 3,   // tokens of the decoder have queries, those of the encoder's text keys
};
const char* layer_role_name(LayerRole role); // "", "encoder", "decoder", "cross"

// How a score of query head h against the key of column j comes about:
//   dot   = q[h] . k[j][h / (n_head / n_head_kv)]
//   s     = softcap > 0 ? softcap * tanh(dot * scale / softcap) : dot * scale
//   score = s * post_scale + slope(h) * alibi(j) + bias(h, j)
//           alibi(j) = -|position - position_j| if max_bias > 0, else 0
//   row   = softmax over the visible columns; with learned sinks the sink's logit joins the denominator only.
// Sources: ggml_compute_forward_flash_attn_ext and ggml_compute_forward_soft_max in ggml-cpu; slope(h) as in ALiBi
// (Press et al. 2022) with ggml's rule for head counts that are no power of two.
struct ScoreRule {
    float scale = 1.0f;
    float softcap = 0.0f;
    float post_scale = 1.0f;
    float max_bias = 0.0f;    // ALiBi; 0: none
    std::vector<float> sinks; // learned sink logits, one a query head; empty: none
    // Added bias by distance d = position_j - position, clamped to [-bias_reach, bias_reach]: (n_head, 2 * bias_reach + 1).
    // T5's buckets are such a table with a reach of 128 (Raffel et al. 2020: every greater distance shares the last
    // bucket). Empty: none.
    std::vector<float> bias;
    int32_t bias_reach = 0;

    bool by_distance() const { return max_bias > 0 || !bias.empty(); } // rows need the positions of all columns
};

// One attention layer, constant over a capture.
struct LayerInfo : ScoreRule {
    int32_t layer = 0;      // the model's number of this layer
    int32_t n_head = 0;     // query heads; 0 where the layer has no attention (then `absent` says why)
    int32_t n_head_kv = 0;  // KV heads; divides n_head
    int32_t head_dim = 0;   // elements of one head of K (and of Q)
    int32_t head_dim_v = 0; // elements of one head of V (for the witness)
    DType q_type = DType::f16;
    DType k_type = DType::f16;
    KeySource key_source = KeySource::cache;
    LayerRole role = LayerRole::every;
    int32_t k_layer = 0; // index into Geometry::layers of the layer whose K is used (itself, unless layers share K)
    // which of Frame::visible applies. Layers that see the same share one: sliding windows have theirs, and a sparse
    // layer, which chooses for each token, has one of its own
    int32_t mask_group = 0;
    // a GPU or another machine computed it, in an order of its own: dot products of float types are then float32 sums
    // wherever the rows are computed, not those of the CPU at hand
    bool on_device = false;
    std::string absent; // why there is nothing to capture here, in words; empty: captured

    bool captured() const { return absent.empty(); }
    size_t q_bytes() const { return captured() ? size_t(n_head) * dtype_row_bytes(q_type, head_dim) : 0; }
    size_t k_bytes() const { return captured() ? size_t(n_head_kv) * dtype_row_bytes(k_type, head_dim) : 0; }
};

// All layers of a model, in order. Offsets of a layer's data inside Frame::q and Frame::k follow from it.
struct Geometry {
    std::vector<LayerInfo> layers;
    int32_t n_mask_groups = 1;

    int32_t n_layer() const { return static_cast<int32_t>(layers.size()); }
    bool owns_k(int32_t i) const { return layers[size_t(i)].captured() && layers[size_t(i)].k_layer == i; }
    size_t q_bytes() const;           // of one frame, all layers
    size_t k_bytes() const;           // of one frame, all layers that own their K
    size_t q_offset(int32_t i) const; // of layer i inside Frame::q
    size_t k_offset(int32_t i) const; // of layer i inside Frame::k; owns_k(i) must hold
    int64_t n_rows() const;           // rows of attention a frame yields: the query heads of all captured layers
    int32_t max_heads() const;        // the largest n_head
};

// Columns [begin, end).
struct Range {
    int64_t begin = 0;
    int64_t end = 0;
    bool operator==(const Range&) const = default;
};
// Sorted, disjoint, not touching. A causal query sees columns up to its own index; one that looks both ways sees later
// ones of its batch.
using Ranges = std::vector<Range>;
int64_t ranges_count(const Ranges& ranges);

// A sampled proof: P.V computed from the captured Q, the cache's K and the engine's V, against the engine's own output.
struct Witness {
    int32_t layer = 0;      // index into Geometry::layers
    int32_t head = 0;       // query head
    float error = 0;        // |ours - engine|_2 / |engine|_2 over head_dim_v
    float tolerance = 0;    // what the kernel's precision allows (docs/fidelity.md)
    float row_sum = 0;      // sum of the row (1, or 1 minus the sink's share)
    double fingerprint = 0; // sum_j row[j] * weight(j), weight() as in attention/fingerprint.h: ties the row that was
                            // proven in memory to the one computed later from the recorded Q and K
};

// Whether the token has rows in a layer that is captured; the frame must fit the geometry.
inline bool has_rows(const LayerInfo& layer, const std::vector<Ranges>& visible) {
    return layer.role == LayerRole::every || !visible[static_cast<size_t>(layer.mask_group)].empty();
}

// What is wrong with a frame, as bits. 0: nothing.
enum VerdictBits : uint32_t {
    verdict_ok = 0,
    verdict_not_finite = 1u << 0,     // a NaN or an infinity in Q or K
    verdict_witness_failed = 1u << 1, // P.V does not reproduce the engine's output
    verdict_row_sum = 1u << 2,        // a row does not sum to 1 (or to 1 minus the sink's share)
    verdict_layers_equal = 1u << 3,   // two layers hold the same Q or the same K
    verdict_stale = 1u << 4,          // the previous frame's data again
    verdict_no_witness = 1u << 5,     // nothing could be witnessed (reason in the layer or in docs/fidelity.md)
    verdict_fingerprint = 1u << 6,    // recorded Q and K do not give the row that was proven (found by verify)
    verdict_checksum = 1u << 7,       // stored bytes are not the written ones (found by verify)
};
std::string verdict_text(uint32_t bits); // "ok", or the reasons, comma separated

enum class FrameKind : int32_t { prompt = 0, generated = 1 };

// One line of text in a capture. Its columns [0, n_shared) are those of its parent (which may have them from its own
// parent), the others its own frames, n_shared .. n_frames - 1. A parent may go on after the place where a child left it.
struct Sequence {
    int64_t id = 0;      // 0, 1, 2, ... in the order of their beginnings
    int64_t parent = -1; // a smaller id; -1: none, and then n_shared is 0
    int64_t n_shared = 0;
    int64_t n_frames = 0; // columns there are, the shared ones among them; filled by the reader
    int64_t keys_of = -1; // the sequence that layers with KeySource::sequence look at; -1: none
    // Whose layout its frames have: 0, RecordingInfo::geometry. Others (an encoder beside its decoder) are refused so far.
    int32_t geometry = 0;
    std::string label;      // what the program that was captured calls it: "slot 3", a request's id; may be empty
    bool ended = false;     // no frame comes any more; filled by the reader
    std::string end_reason; // why it ended where it did, when that was not its own choice; empty otherwise

    int64_t n_own() const { return n_frames - n_shared; }
};

// A picture or a sound in a sequence: its patches are the frames of columns [begin, end), whose token is -1.
enum class MediaKind : int32_t { image = 0, audio = 1 };
struct Media {
    int64_t sequence = 0;
    int64_t begin = 0;
    int64_t end = 0;
    MediaKind kind = MediaKind::image;
    int32_t width = 0, height = 0;        // in pixels; 0: unknown, or a sound
    int32_t n_patch_x = 0, n_patch_y = 0; // row by row: column begin + y * n_patch_x + x; 0: in no grid that we know
    std::string name;                     // file name or address without folders and secrets; may be empty
    std::string sha256;                   // of its bytes; empty: unknown
};

// What one decoded token yields. The row for frame i describes the query *at* token i (what the model looked at when
// it had read token i and was about to choose token i + 1).
struct Frame {
    int64_t sequence = 0; // Sequence::id
    int64_t index = 0;    // in that sequence
    int32_t token = -1;   // vocabulary id; -1 when unknown (attached to a foreign program, embeddings)
    int32_t position = 0;
    FrameKind kind = FrameKind::prompt;
    bool batched = false;   // decoded together with other tokens: the engine then uses another kernel, which adds in
                            // another order (docs/fidelity.md)
    std::vector<uint8_t> q; // (layer, n_head, head_dim) in each layer's q_type; empty: rows of this frame not kept
    std::vector<uint8_t> k; // (layer that owns K, n_head_kv, head_dim) in each layer's k_type
    std::vector<Ranges> visible; // one a mask group: the columns this token sees; none: it has no rows in these layers
    std::vector<Witness> witnesses;
    uint32_t verdict = verdict_no_witness;
};

// A frame as it leaves the engine, and what is not recorded of it. Goes where a frame does.
struct CapturedFrame {
    Frame frame;
    // (index + 1): the mean over the rows of all captured layers and heads (or those of GenerateOptions::mean_rows), computed by whatever decodes beside the model; empty unless asked for
    // (SessionOptions::device_mean) and possible there
    std::vector<float> mean;
    operator Frame&&() && { return std::move(frame); }
};

} // namespace attnscope
