#include "capture/device/gather.h"

namespace attnscope::capture {

namespace {

constexpr size_t alignment = 256;

size_t aligned(size_t n) {
    return (n + alignment - 1) / alignment * alignment;
}

uint8_t* base(ggml_backend_buffer_t buffer) {
    return static_cast<uint8_t*>(ggml().backend_buffer_get_base(buffer));
}

size_t n_picked(const GatherPlan& plan) {
    size_t n = 0;
    for (const GatherPlan::Picked& p : plan.picked) n += p.rows.size();
    return n;
}

ggml_tensor* at(ggml_tensor* t, ggml_backend_buffer_t buffer, size_t offset) {
    ggml().backend_tensor_alloc(buffer, t, base(buffer) + offset);
    return t;
}

// (dim, n_head, n_tokens) with strides of its own.
ggml_tensor* heads_at(ggml_context* ctx, ggml_type type, const GatherPlan::Heads& h, size_t head_stride,
                      size_t token_stride, ggml_backend_buffer_t buffer, size_t offset) {
    ggml_tensor* t = ggml().new_tensor_3d(ctx, type, h.head_dim, h.n_head, h.n_tokens);
    set_nb(t, 1, head_stride);
    set_nb(t, 2, token_stride);
    set_nb(t, 3, token_stride * size_t(h.n_tokens));
    return at(t, buffer, offset);
}

} // namespace

size_t GatherPlan::room(size_t n) {
    const size_t at = aligned(bytes);
    bytes = at + n;
    return at;
}

size_t Gather::memory_needed(const GatherPlan& plan) {
    return aligned(plan.bytes) + n_picked(plan) * sizeof(int32_t);
}

bool Gather::build(ggml_backend_t backend, const Placement::Block& block, const GatherPlan& plan,
                   ggml_backend_buffer_t staging) {
    const size_t n_nodes = plan.whole.size() + plan.picked.size() + plan.heads.size();
    const size_t n_tensors = 3 * n_nodes + 2; // a graph knows its inputs, too
    ctx_.reset(ggml().init(
        {ggml().tensor_overhead() * n_tensors + ggml().graph_overhead_custom(n_tensors, false), nullptr, true}));
    ggml_context* ctx = ctx_.get();
    graph_ = ggml().new_graph_custom(ctx, n_tensors, false);
    result_ = at(ggml().new_tensor_1d(ctx, GGML_TYPE_I8, static_cast<int64_t>(plan.bytes)), staging, 0);
    row_numbers_.clear();
    rows_ = nullptr;
    const size_t rows_at = aligned(plan.bytes);
    if (const size_t n = n_picked(plan); n > 0) {
        rows_ = at(ggml().new_tensor_1d(ctx, GGML_TYPE_I32, static_cast<int64_t>(n)), staging, rows_at);
    }
    bool possible = true;
    const auto add = [&](ggml_tensor* node) {
        possible = possible && ggml().backend_supports_op(backend, node);
        ggml().build_forward_expand(graph_, node);
    };
    const auto copy = [&](ggml_tensor* from, ggml_tensor* to) {
        ggml_tensor* node = ggml().cpy(ctx, from, to);
        if (ggml().backend_view_init(node) != GGML_STATUS_SUCCESS) possible = false;
        add(node);
    };
    for (const GatherPlan::Whole& w : plan.whole) {
        const auto n = static_cast<int64_t>(w.bytes / sizeof(float));
        copy(at(ggml().new_tensor_1d(ctx, GGML_TYPE_F32, n), block.memory.get(), w.from),
             at(ggml().new_tensor_1d(ctx, GGML_TYPE_F32, n), staging, w.to));
    }
    for (const GatherPlan::Picked& p : plan.picked) {
        if (p.rows.empty()) continue;
        const auto n = static_cast<int64_t>(p.rows.size());
        ggml_tensor* numbers =
            at(ggml().new_tensor_1d(ctx, GGML_TYPE_I32, n), staging, rows_at + row_numbers_.size() * sizeof(int32_t));
        row_numbers_.insert(row_numbers_.end(), p.rows.begin(), p.rows.end());
        ggml_tensor* all = at(ggml().new_tensor_2d(ctx, GGML_TYPE_F32, p.width, p.n_rows), block.memory.get(), p.from);
        add(at(ggml().get_rows(ctx, all, numbers), staging, p.to));
    }
    for (const GatherPlan::Heads& h : plan.heads) {
        const auto type = static_cast<ggml_type>(h.type);
        copy(heads_at(ctx, GGML_TYPE_F32, h, h.head_stride, h.token_stride, block.memory.get(), h.from),
             heads_at(ctx, type, h, row_bytes(type, h.head_dim), h.to_token, staging, h.to));
    }
    return possible;
}

void Gather::start(ggml_backend_t backend) {
    if (rows_)
        ggml().backend_tensor_set_async(backend, rows_, row_numbers_.data(), 0, row_numbers_.size() * sizeof(int32_t));
    ggml().backend_graph_compute_async(backend, graph_);
}

} // namespace attnscope::capture
