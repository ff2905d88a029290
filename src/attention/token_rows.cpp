#include "attention/token_rows.h"

#include "attention/softmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace attnscope::attention {

namespace {

// Rows side by side must not begin in the same set of a cache, which a power of two between them would make them do.
size_t row_stride(int64_t n_columns) {
    constexpr size_t line = 16, page = 1024; // floats
    const size_t n = (static_cast<size_t>(n_columns) + line - 1) / line * line;
    return n % page == 0 ? n + line : n;
}

// Tokens [first, first + n): those that see some columns, and those between them.
struct Piece {
    int32_t first;
    int32_t n;
};

Piece piece_of(const SharedColumns& s) {
    const int32_t first = std::countr_zero(s.tokens);
    return {first, static_cast<int32_t>(std::bit_width(s.tokens)) - first};
}

void float_dots(const RowKernels& kernels, const TokenRowsRequest& r, TokenRows& rows) {
    const LayerInfo& layer = *r.layer;
    rows.q.assign(rows.q_bytes.data(), layer.q_type, r.tokens.size(), layer.head_dim);
    auto* const dots = layer.k_type == DType::f16    ? kernels.dots_f16
                       : layer.k_type == DType::bf16 ? kernels.dots_bf16
                                                     : kernels.dots_f32;
    DotTask task;
    task.q_stride = rows.q.stride();
    task.head_dim = layer.head_dim;
    task.k_stride = r.k_stride;
    task.out_stride = rows.stride;
    task.batched = r.batched && layer.k_type != DType::f32; // as in attention_rows
    for (const SharedColumns& s : rows.shared) {
        const Piece p = piece_of(s);
        task.q = rows.q.head(static_cast<size_t>(p.first));
        task.n_q = p.n;
        task.k = r.k + static_cast<size_t>(s.begin) * r.k_stride;
        task.n = s.end - s.begin;
        task.out = rows.values.data() + static_cast<size_t>(p.first) * rows.stride + s.begin;
        dots(task);
    }
}

void quantised_dots(const TokenRowsRequest& r, TokenRows& rows) {
    EngineDotTask task;
    task.q_stride = r.plan->q_head_bytes;
    task.k_stride = r.k_stride;
    task.out_stride = rows.stride;
    for (const SharedColumns& s : rows.shared) {
        const Piece p = piece_of(s);
        task.q = rows.q_bytes.data() + static_cast<size_t>(p.first) * task.q_stride;
        task.n_q = p.n;
        task.k = r.k + static_cast<size_t>(s.begin) * r.k_stride;
        task.n = s.end - s.begin;
        task.out = rows.values.data() + static_cast<size_t>(p.first) * rows.stride + s.begin;
        engine_dots(*r.layer, task);
    }
}

} // namespace

void share_columns(std::span<const std::span<const Range>> visible, std::vector<SharedColumns>& shared) {
    shared.clear();
    std::array<size_t, max_tokens_together> at{}; // the range of each token that ends beyond `column`
    for (int64_t column = 0;;) {
        constexpr int64_t never = std::numeric_limits<int64_t>::max();
        int64_t next = never;
        uint32_t tokens = 0;
        for (size_t t = 0; t < visible.size(); ++t) {
            while (at[t] < visible[t].size() && visible[t][at[t]].end <= column) ++at[t];
            if (at[t] == visible[t].size()) continue;
            const Range& r = visible[t][at[t]];
            if (r.begin <= column) tokens |= uint32_t{1} << t;
            next = std::min(next, r.begin <= column ? r.end : r.begin);
        }
        if (next == never) return;
        if (tokens != 0) {
            if (!shared.empty() && shared.back().end == column && shared.back().tokens == tokens)
                shared.back().end = next;
            else
                shared.push_back({column, next, tokens});
        }
        column = next;
    }
}

void token_rows(const RowKernels& kernels, const TokenRowsRequest& r, TokenRows& rows) {
    rows.stride = row_stride(r.n_columns);
    const size_t n_values = r.tokens.size() * rows.stride;
    if (rows.values.size() < n_values) rows.values.resize(n_values);
    std::array<std::span<const Range>, max_tokens_together> visible;
    rows.q_bytes.clear();
    for (size_t t = 0; t < r.tokens.size(); ++t) {
        visible[t] = r.tokens[t].visible;
        rows.q_bytes.insert(rows.q_bytes.end(), r.tokens[t].q, r.tokens[t].q + r.plan->q_head_bytes);
    }
    share_columns(std::span(visible).first(r.tokens.size()), rows.shared);
    if (r.plan->way == DotWay::float32)
        float_dots(kernels, r, rows);
    else
        quantised_dots(r, rows);
    for (size_t t = 0; t < r.tokens.size(); ++t) {
        const TokenRowsRequest::Token& token = r.tokens[t];
        const SoftmaxTask task{r.layer, token.visible, r.n_columns, token.position, r.positions};
        softmax_row(kernels, task, r.head, rows.values.data() + t * rows.stride);
    }
}

} // namespace attnscope::attention
