#include "capture/proof/judge.h"

#include "base/hash64.h"
#include "base/parallel_for.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace attnscope::capture {

namespace {

constexpr size_t most_sequences = 4096;

// An exponent of all ones is an infinity or a NaN. Written so that the compiler makes vector code of it.
bool finite_u16(const uint8_t* data, int64_t n, uint16_t exponent) {
    uint16_t bad = 0; // as wide as what is looked at, so that a register holds the most
    for (int64_t i = 0; i < n; ++i) {
        uint16_t x;
        std::memcpy(&x, data + size_t(i) * 2, 2);
        bad = static_cast<uint16_t>(bad | ((x & exponent) == exponent));
    }
    return bad == 0;
}

bool finite_u32(const uint8_t* data, int64_t n) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint32_t x;
        std::memcpy(&x, data + size_t(i) * 4, 4);
        bad |= static_cast<uint32_t>((x & 0x7F800000u) == 0x7F800000u);
    }
    return bad == 0;
}

} // namespace

bool all_finite(DType type, const uint8_t* data, int64_t n) {
    switch (type) {
    case DType::f32: return finite_u32(data, n);
    case DType::f16: return finite_u16(data, n, 0x7C00);
    case DType::bf16: return finite_u16(data, n, 0x7F80);
    default: break;
    }
    // Block types begin with one half-precision scale (q4_1, q5_1, q8_1: with two).
    const bool two = type == DType::q4_1 || type == DType::q5_1 || type == DType::q8_1;
    const size_t block = dtype_row_bytes(type, dtype_block(type));
    for (int64_t i = 0; i < n / dtype_block(type); ++i) {
        if (!finite_u16(data + size_t(i) * block, two ? 2 : 1, 0x7C00)) return false;
    }
    return true;
}

uint32_t judge_witnesses(const Geometry& geometry, const Frame& frame) {
    if (frame.witnesses.empty()) return verdict_no_witness;
    uint32_t bits = verdict_ok;
    for (const Witness& w : frame.witnesses) {
        if (w.layer < 0 || w.layer >= geometry.n_layer() || w.head < 0 ||
            w.head >= geometry.layers[size_t(w.layer)].n_head) {
            bits |= verdict_witness_failed; // a witness of nothing
            continue;
        }
        if (!(w.error <= w.tolerance)) bits |= verdict_witness_failed;
        const bool sinks = !geometry.layers[size_t(w.layer)].sinks.empty();
        const bool sum_right = sinks ? w.row_sum > 0 && w.row_sum <= 1.00001f : std::fabs(w.row_sum - 1.0f) <= 1e-5f;
        if (!sum_right) bits |= verdict_row_sum;
    }
    return bits;
}

namespace {

// Did an encoder read the token? Its own layers see its text; where none of them is captured, those of the decoder see nothing.
bool read_by_encoder(const Geometry& geometry, const Frame& frame) {
    bool others = false, any_encoder = false;
    for (const LayerInfo& l : geometry.layers) {
        if (!l.captured() || l.role == LayerRole::every) continue;
        const bool rows = has_rows(l, frame.visible);
        if (l.role == LayerRole::encoder && rows) return true;
        any_encoder = any_encoder || l.role == LayerRole::encoder;
        others = others || rows;
    }
    return !any_encoder && !others;
}

// Are the frame's keys of the layer its own? Zeros stand for what is not there.
bool has_key(const LayerInfo& layer, bool of_encoder, const uint8_t* k) {
    switch (layer.role) {
    case LayerRole::every: return true;
    case LayerRole::encoder: return of_encoder;
    case LayerRole::decoder: return !of_encoder;
    case LayerRole::cross: break; // nor where the decoder never looked at the text
    }
    return of_encoder && std::any_of(k, k + layer.k_bytes(), [](uint8_t byte) { return byte != 0; });
}

} // namespace

capture::FrameFacts inspect(const Geometry& geometry, const Frame& frame) {
    capture::FrameFacts facts;
    const bool of_encoder = read_by_encoder(geometry, frame);
    const bool with_q = !frame.q.empty();
    const uint8_t* q = frame.q.data();
    const uint8_t* k = frame.k.data();
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& layer = geometry.layers[size_t(l)];
        if (!layer.captured()) continue;
        if (with_q) {
            facts.finite = facts.finite && all_finite(layer.q_type, q, int64_t(layer.n_head) * layer.head_dim);
            if (has_rows(layer, frame.visible)) facts.hashes.push_back(base::hash64({q, layer.q_bytes()}));
            q += layer.q_bytes();
        }
        if (geometry.owns_k(l)) {
            facts.finite = facts.finite && all_finite(layer.k_type, k, int64_t(layer.n_head_kv) * layer.head_dim);
            if (has_key(layer, of_encoder, k)) facts.hashes.push_back(base::hash64({k, layer.k_bytes()}));
            k += layer.k_bytes();
        }
    }
    std::vector<uint64_t> sorted = facts.hashes;
    std::sort(sorted.begin(), sorted.end());
    facts.layers_differ = std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
    return facts;
}

void Judge::judge(Frame& frame, capture::FrameFacts facts) {
    uint32_t bits = judge_witnesses(geometry_, frame);
    if (!facts.finite) bits |= verdict_not_finite;
    // One layer that knows no positions and comes first computes the same of the same token, and rightly so.
    const auto captured = std::count_if(geometry_.layers.begin(), geometry_.layers.end(),
                                        [](const LayerInfo& l) { return l.captured(); });
    std::vector<uint64_t>& previous = previous_[frame.sequence];
    if (captured > 1 && facts.hashes == previous && !previous.empty()) bits |= verdict_stale;
    if (!facts.layers_differ) bits |= verdict_layers_equal;
    previous = std::move(facts.hashes);
    frame.verdict = bits;
    // A server has new ones for ever. What of the oldest comes again later is not noticed.
    if (previous_.size() > most_sequences) previous_.erase(previous_.begin());
}

void Judge::judge(std::span<Frame> frames, std::vector<capture::FrameFacts> facts) {
    constexpr size_t many = 32;
    if (facts.size() != frames.size()) {
        facts.assign(frames.size(), {});
        const auto find = [&](size_t i) { facts[i] = inspect(geometry_, frames[i]); };
        base::parallel_for(frames.size(), many, find);
    }
    for (size_t i = 0; i < frames.size(); ++i) judge(frames[i], std::move(facts[i]));
}

} // namespace attnscope::capture
