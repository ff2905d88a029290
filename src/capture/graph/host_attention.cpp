#include "capture/graph/host_attention.h"

namespace attnscope::capture {

bool is_host(const ggml_tensor* t) {
    ggml_backend_buffer_t memory = buffer(view_src(t) ? view_src(t) : t);
    return !memory || ggml().backend_buffer_is_host(memory);
}

HostAttention host_attention(const AttentionNode& n) {
    HostAttention a;
    a.q = data(n.q);
    a.q_token = nb(n.q, 1), a.q_head = nb(n.q, 2);
    a.out = data(n.out);
    // flash: (head_dim_v, n_head, n_query); otherwise (head_dim_v, n_query, n_head)
    a.out_token = n.flash ? nb(n.out, 2) : nb(n.out, 1);
    a.out_head = n.flash ? nb(n.out, 1) : nb(n.out, 2);
    a.k = data(n.k);
    a.k_cell = nb(n.k, 1);
    if (n.graph_keys) a.k_head = nb(n.k, 2);
    if (n.n_stream > 1) {
        a.stream_tokens = ne(n.q, 1);
        a.q_stream = nb(n.q, 3), a.out_stream = nb(n.out, 3);
    }
    a.v = data(n.v);
    // flash: (dim, cell, head); otherwise (cell, dim, head)
    a.v_cell = n.flash ? nb(n.v, 1) : nb(n.v, 0);
    a.v_dim = n.flash ? nb(n.v, 0) : nb(n.v, 1);
    a.v_head = nb(n.v, 2);
    if (n.cache_streams > 1) {
        a.v_stream = nb(n.v, 3);
        a.k -= size_t(n.first_stream * n.stream_cells) * a.k_cell;
        a.v -= size_t(n.first_stream) * a.v_stream;
    }
    return a;
}

} // namespace attnscope::capture
