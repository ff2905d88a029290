#include "attention/plan.h"

#include "attention/engine_arithmetic.h"
#include "attention/kernels/simd.h"

#include <algorithm>
#include <limits>
#include <string>

namespace attnscope::attention {

namespace {

// Far above any model, and low enough that no product of sizes below can overflow 64 bits.
constexpr int32_t max_n_head = 1 << 16;
constexpr int32_t max_head_dim = 1 << 16;

Error invalid(std::string message) {
    return {ErrorKind::invalid_argument, std::move(message)};
}
Error unsupported(std::string message) {
    return {ErrorKind::unsupported, std::move(message)};
}

bool is_float(DType type) {
    return type == DType::f32 || type == DType::f16 || type == DType::bf16;
}

// The engine converts Q to the dot-product partner of K's type before it multiplies (vec_dot_type in
// ggml-cpu.c).
Result<DotWay> dot_way(const LayerInfo& layer, bool batched) {
    const DType q = layer.q_type;
    const DType k = layer.k_type;
    if (!dtype_known(static_cast<int32_t>(k)) || !dtype_known(static_cast<int32_t>(q))) {
        return unsupported("Q or K has an element type that is not known here (numbers " +
                           std::to_string(static_cast<int32_t>(q)) + " and " + std::to_string(static_cast<int32_t>(k)) +
                           ")");
    }
    const TypeArithmetic arithmetic = engine_arithmetic(k);
    // A GPU keeps Q in float32 beside keys of 16 bits; converting either to float32 loses nothing.
    if (is_float(k) && (q == k || q == DType::f32)) {
        // Batches of 16-bit keys go through tinyBLAS, which cannot be called by itself.
        const bool by_vec_dot = q == k && !layer.on_device && (!batched || k == DType::f32) && arithmetic.vec_dot;
        return by_vec_dot && !adds_as_engine(k, layer.head_dim) ? DotWay::engine : DotWay::float32;
    }
    if (is_float(k) || !arithmetic.vec_dot) {
        return unsupported(std::string("no dot product of Q in ") + dtype_name(q) + " with K in " + dtype_name(k));
    }
    const DType partner = arithmetic.vec_dot_type;
    if (q != partner) {
        return unsupported(std::string("K in ") + dtype_name(k) + " is multiplied with Q in " + dtype_name(partner) +
                           ", but Q was recorded in " + dtype_name(q));
    }
    return DotWay::engine;
}

} // namespace

Result<RowsPlan> plan_layer(const LayerInfo& layer, bool batched) {
    if (!layer.captured()) return invalid("the layer was not captured: " + layer.absent);
    if (layer.n_head <= 0 || layer.n_head > max_n_head || layer.n_head_kv <= 0 || layer.n_head % layer.n_head_kv != 0) {
        return invalid("a layer of " + std::to_string(layer.n_head) + " query heads and " +
                       std::to_string(layer.n_head_kv) + " KV heads makes no sense");
    }
    if (layer.key_source == KeySource::sequence)
        return unsupported("keys of another sequence (cross attention) give no rows yet");
    if (layer.bias_reach < 0 ||
        (!layer.bias.empty() &&
         layer.bias.size() != static_cast<size_t>(layer.n_head) * (2 * static_cast<size_t>(layer.bias_reach) + 1))) {
        return invalid("an added bias of " + std::to_string(layer.bias.size()) + " numbers for " +
                       std::to_string(layer.n_head) + " heads and distances up to " + std::to_string(layer.bias_reach));
    }
    auto way = dot_way(layer, batched);
    if (!way) return way.error();
    if (layer.head_dim <= 0 || layer.head_dim > max_head_dim || layer.head_dim % dtype_block(layer.k_type) != 0 ||
        layer.head_dim % dtype_block(layer.q_type) != 0) {
        return invalid("heads of " + std::to_string(layer.head_dim) + " elements cannot be held in " +
                       dtype_name(layer.q_type) + " and " + dtype_name(layer.k_type));
    }
    if (!layer.sinks.empty() && layer.sinks.size() != static_cast<size_t>(layer.n_head)) {
        return invalid(std::to_string(layer.sinks.size()) + " sinks for " + std::to_string(layer.n_head) + " heads");
    }
    RowsPlan plan;
    plan.way = way.value();
    plan.group = layer.n_head / layer.n_head_kv;
    plan.q_head_bytes = dtype_row_bytes(layer.q_type, layer.head_dim);
    plan.k_head_bytes = dtype_row_bytes(layer.k_type, layer.head_dim);
    return plan;
}

namespace {

Result<void> check_visible(const RowsRequest& request) {
    int64_t seen = 0; // columns below it have been passed
    for (const Range& r : request.visible) {
        if (r.begin < seen || r.end < r.begin || r.end > request.n_columns) {
            return invalid("visible columns [" + std::to_string(r.begin) + ", " + std::to_string(r.end) +
                           ") are out of order or outside the " + std::to_string(request.n_columns) + " columns");
        }
        seen = r.end;
    }
    return {};
}

Result<void> check_keys(const RowsRequest& request, size_t row_bytes) {
    constexpr auto far = static_cast<size_t>(std::numeric_limits<ptrdiff_t>::max());
    int64_t seen = 0;
    for (const KeyBlock& block : request.keys) {
        if (block.first < seen || block.n < 0 || block.n > std::numeric_limits<int64_t>::max() - block.first) {
            return invalid("the block of " + std::to_string(block.n) + " keys at column " +
                           std::to_string(block.first) + " is out of order or impossible");
        }
        seen = block.first + block.n;
        if (block.n == 0) continue;
        if (!block.data) return invalid("the keys at column " + std::to_string(block.first) + " are missing");
        const auto steps = static_cast<size_t>(block.n - 1);
        if (steps > 0 && (block.stride < row_bytes || block.stride > (far - row_bytes) / steps)) {
            return invalid("keys of " + std::to_string(row_bytes) + " bytes cannot lie " +
                           std::to_string(block.stride) + " bytes apart");
        }
    }
    return {};
}

// Both lists ascend, so one walk over them finds what they share.
Result<void> cut_segments(const RowsRequest& request, std::vector<KeySegment>& segments) {
    auto block = request.keys.begin();
    for (const Range& r : request.visible) {
        int64_t column = r.begin;
        while (column < r.end) {
            while (block != request.keys.end() && block->first + block->n <= column) ++block;
            if (block == request.keys.end() || block->first > column) {
                return invalid("column " + std::to_string(column) + " is visible but has no key");
            }
            const int64_t row = column - block->first;
            const int64_t n = std::min(r.end - column, block->n - row);
            segments.push_back({column, n, block->data + static_cast<size_t>(row) * block->stride, block->stride});
            column += n;
        }
    }
    return {};
}

} // namespace

Result<RowsPlan> plan_rows(const RowsRequest& request, size_t out_size, size_t lse_size) {
    if (!request.layer) return invalid("no layer given");
    if (!request.q) return invalid("no query given");
    const LayerInfo& layer = *request.layer;
    auto plan = plan_layer(layer, request.batched);
    if (!plan) return plan;

    if (request.head_begin < 0 || request.head_begin >= request.head_end || request.head_end > layer.n_head) {
        return invalid("heads [" + std::to_string(request.head_begin) + ", " + std::to_string(request.head_end) +
                       ") asked of a layer of " + std::to_string(layer.n_head));
    }
    const auto n_rows = static_cast<size_t>(request.head_end - request.head_begin);
    if (request.n_columns < 0 || out_size / n_rows < static_cast<size_t>(request.n_columns)) {
        return invalid("no room for " + std::to_string(n_rows) + " rows of " + std::to_string(request.n_columns) +
                       " columns in " + std::to_string(out_size) + " numbers");
    }
    if (lse_size != 0 && lse_size < n_rows) {
        return invalid("no room for " + std::to_string(n_rows) + " denominators in " + std::to_string(lse_size));
    }
    if (layer.by_distance() && request.positions.size() < static_cast<size_t>(request.n_columns)) {
        return invalid("a bias by distance (ALiBi, T5) needs the position of every column, but " +
                       std::to_string(request.positions.size()) + " of " + std::to_string(request.n_columns) +
                       " are given");
    }
    if (auto ok = check_visible(request); !ok) return ok.error();
    const size_t row_bytes = plan->k_head_bytes * static_cast<size_t>(layer.n_head_kv);
    if (auto ok = check_keys(request, row_bytes); !ok) return ok.error();
    if (auto ok = cut_segments(request, plan->segments); !ok) return ok.error();
    return plan;
}

} // namespace attnscope::attention
