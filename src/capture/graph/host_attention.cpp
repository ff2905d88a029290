#include "capture/graph/host_attention.h"

#include <ggml-backend.h>

namespace attnscope::capture {

bool is_host(const ggml_tensor* t) {
    ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;
    return !buffer || ggml_backend_buffer_is_host(buffer);
}

HostAttention host_attention(const AttentionNode& n) {
    HostAttention a;
    a.q = static_cast<const uint8_t*>(n.q->data);
    a.q_token = n.q->nb[1], a.q_head = n.q->nb[2];
    a.out = static_cast<const uint8_t*>(n.out->data);
    // flash: (head_dim_v, n_head, n_query); otherwise (head_dim_v, n_query, n_head)
    a.out_token = n.flash ? n.out->nb[2] : n.out->nb[1];
    a.out_head = n.flash ? n.out->nb[1] : n.out->nb[2];
    a.k = static_cast<const uint8_t*>(n.k->data);
    a.k_cell = n.k->nb[1];
    a.v = static_cast<const uint8_t*>(n.v->data);
    // flash: (dim, cell, head); otherwise (cell, dim, head)
    a.v_cell = n.flash ? n.v->nb[1] : n.v->nb[0];
    a.v_dim = n.flash ? n.v->nb[0] : n.v->nb[1];
    a.v_head = n.v->nb[2];
    return a;
}

} // namespace attnscope::capture
