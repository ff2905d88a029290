// One attention's tensors in host memory: the engine's own, or copies of them.
#pragma once

#include "capture/graph/attention_graph.h"

#include <attnscope/types.h>

#include <cstdint>

namespace attnscope::capture {

// Strides are bytes. Borrowed; valid until the engine's next graph runs, or until the copy is used again.
struct HostAttention {
    const uint8_t* q = nullptr; // f32; element d of head h of token i at q + i * q_token + h * q_head + 4 d
    size_t q_token = 0, q_head = 0, q_stream = 0;
    // or, of the tokens from `first_kept` on: (n_head, head_dim) in the layer's q_type
    const uint8_t* q_kept = nullptr;
    size_t q_kept_token = 0;
    int64_t first_kept = 0;
    const uint8_t* out = nullptr; // f32; the engine's own output, likewise
    size_t out_token = 0, out_head = 0, out_stream = 0;
    int64_t stream_tokens = 0;  // tokens of each stream of the graph; 0: there is one stream
    const uint8_t* k = nullptr; // row of cell c at k + c * k_cell, (n_head_kv, head_dim) in the cache's type
    size_t k_cell = 0;
    size_t k_head = 0;          // from head to head where they do not lie one behind the other; 0: they do
    const uint8_t* v = nullptr; // element d of KV head h at cell c: v + c * v_cell + h * v_head + d * v_dim
    size_t v_cell = 0, v_head = 0, v_dim = 0;
    size_t v_stream = 0; // from a stream of the cache to the next; K's cells lie one behind the other
    bool device = false; // computed by other kernels than the CPU's

    const uint8_t* q_of(size_t token, size_t head) const { return of(q, q_token, q_stream, token) + head * q_head; }
    const uint8_t* out_of(size_t token, size_t head) const {
        return of(out, out_token, out_stream, token) + head * out_head;
    }

private:
    const uint8_t* of(const uint8_t* base, size_t token_bytes, size_t stream_bytes, size_t token) const {
        const auto n = size_t(stream_tokens);
        return n == 0 ? base + token * token_bytes : base + token / n * stream_bytes + token % n * token_bytes;
    }
};

bool is_host(const ggml_tensor* tensor);

// Of a node whose tensors all lie in host memory.
HostAttention host_attention(const AttentionNode& node);

} // namespace attnscope::capture
