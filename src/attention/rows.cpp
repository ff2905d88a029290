// Rows of attention: plan, dot products, softmax.
#include "attention/numbers.h"
#include "attention/plan.h"
#include "attention/simd.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

namespace attnscope {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The steepness of ALiBi for query head h, as ggml_compute_forward_soft_max_f32 computes it: the geometric
// sequence of Press et al. 2022 (arXiv 2108.12409) for the largest power of two not above n_head; heads
// beyond it take every second member of the sequence for twice as many.
float alibi_slope(int32_t h, int32_t n_head, float max_bias) {
    int32_t n_head_log2 = 1;
    while (n_head_log2 * 2 <= n_head)
        n_head_log2 *= 2;
    const auto n = static_cast<float>(n_head_log2);
    const float m0 = std::pow(2.0f, -max_bias / n);
    const float m1 = std::pow(2.0f, -(max_bias / 2.0f) / n);
    return h < n_head_log2 ? std::pow(m0, static_cast<float>(h + 1))
                           : std::pow(m1, static_cast<float>(2 * (h - n_head_log2) + 1));
}

// Query heads as float32, each starting on a cache line.
class FloatQueries {
public:
    FloatQueries(const uint8_t* q, DType type, size_t n_head, int64_t head_dim)
        : lines_per_head_((static_cast<size_t>(head_dim) + floats_per_line - 1) / floats_per_line),
          lines_(n_head * lines_per_head_) {
        const size_t head_bytes = dtype_row_bytes(type, head_dim);
        for (size_t h = 0; h < n_head; ++h) {
            const uint8_t* from = q + h * head_bytes;
            for (int64_t i = 0; i < head_dim; ++i) {
                const auto at = static_cast<size_t>(i);
                lines_[h * lines_per_head_ + at / floats_per_line].f[at % floats_per_line] =
                    type == DType::f16    ? F16Elements::at(from, i)
                    : type == DType::bf16 ? Bf16Elements::at(from, i)
                                          : F32Elements::at(from, i);
            }
        }
    }
    const float* head(size_t h) const { return lines_[h * lines_per_head_].f; }
    size_t stride() const { return lines_per_head_ * floats_per_line; }

private:
    static constexpr size_t floats_per_line = 16;
    struct alignas(64) Line {
        float f[floats_per_line];
    };
    size_t lines_per_head_;
    std::vector<Line> lines_;
};

// Query heads [begin, end) of one request, all served by one KV head, and where their rows go.
struct Group {
    int32_t begin = 0;
    int32_t end = 0;
    int32_t kv_head = 0;
    float* out = nullptr; // (end - begin, n_columns)
    float* lse = nullptr; // (end - begin), or null
};

void float_dots(const RowKernels& kernels, const RowsRequest& request, const RowsPlan& plan,
                const Group& group) {
    const LayerInfo& layer = *request.layer;
    const FloatQueries q(request.q + static_cast<size_t>(group.begin) * plan.q_head_bytes, layer.q_type,
                         static_cast<size_t>(group.end - group.begin), layer.head_dim);
    auto* const dots = layer.k_type == DType::f16    ? kernels.dots_f16
                       : layer.k_type == DType::bf16 ? kernels.dots_bf16
                                                     : kernels.dots_f32;
    DotTask task;
    task.q = q.head(0);
    task.q_stride = q.stride();
    task.n_q = group.end - group.begin;
    task.head_dim = layer.head_dim;
    task.out_stride = static_cast<size_t>(request.n_columns);
    // tinyBLAS wants Q converted to another type than float32: with f32 keys the engine always uses its dot product.
    task.batched = request.batched && layer.k_type != DType::f32;
    for (const KeySegment& segment : plan.segments) {
        task.k = segment.data + static_cast<size_t>(group.kv_head) * plan.k_head_bytes;
        task.k_stride = segment.stride;
        task.n = segment.n;
        task.out = group.out + segment.column;
        dots(task);
    }
}

void engine_dots(const RowsRequest& request, const RowsPlan& plan, const Group& group) {
    // vec_dot may look half-precision block scales up in a table that this fills.
    static std::once_flag once;
    std::call_once(once, ggml_cpu_init);
    const LayerInfo& layer = *request.layer;
    const auto vec_dot = ggml_get_type_traits_cpu(static_cast<ggml_type>(layer.k_type))->vec_dot;
    for (const KeySegment& segment : plan.segments) {
        for (int64_t r = 0; r < segment.n; ++r) {
            const uint8_t* k = segment.data + static_cast<size_t>(r) * segment.stride +
                               static_cast<size_t>(group.kv_head) * plan.k_head_bytes;
            for (int32_t h = group.begin; h < group.end; ++h) {
                const uint8_t* q = request.q + static_cast<size_t>(h) * plan.q_head_bytes;
                float* out = group.out + (h - group.begin) * request.n_columns + segment.column + r;
                vec_dot(layer.head_dim, out, 0, k, 0, q, 0, 1);
            }
        }
    }
}

// Adds slope * -|distance| to scores of columns [column, column + n); returns the new maximum.
float add_alibi(float* scores, int64_t column, int64_t n, float slope, const RowsRequest& request) {
    float max = -infinity;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t distance =
            static_cast<int64_t>(request.position) - request.positions[static_cast<size_t>(column + i)];
        scores[i] += slope * -static_cast<float>(std::abs(distance));
        max = scores[i] > max ? scores[i] : max;
    }
    return max;
}

// Turns the dot products in `row` into weights. Returns the natural logarithm of the denominator.
float softmax(const RowKernels& kernels, const RowsRequest& request, const RowsPlan& plan, int32_t head,
              float* row) {
    const LayerInfo& layer = *request.layer;
    const bool alibi = layer.max_bias > 0;
    const float slope = alibi ? alibi_slope(head, layer.n_head, layer.max_bias) : 0.0f;
    float max = -infinity;
    for (const KeySegment& s : plan.segments) {
        float* x = row + s.column;
        float top = kernels.scores(x, s.n, layer.scale, layer.softcap, layer.post_scale);
        if (alibi) top = add_alibi(x, s.column, s.n, slope, request);
        max = std::max(max, top);
    }
    const float* sink = layer.sinks.empty() ? nullptr : &layer.sinks[static_cast<size_t>(head)];
    if (plan.segments.empty()) {
        std::fill_n(row, request.n_columns, 0.0f);
        return sink ? *sink : -infinity; // nothing to weigh, but a sink takes its share of nothing
    }
    if (sink) max = std::max(max, *sink);

    double sum = sink ? static_cast<double>(std::exp(*sink - max)) : 0.0;
    for (const KeySegment& s : plan.segments)
        sum += kernels.exponentials(row + s.column, s.n, max);
    const auto factor = static_cast<float>(1.0 / sum);
    int64_t written = 0;
    for (const KeySegment& s : plan.segments) {
        std::fill(row + written, row + s.column, 0.0f);
        kernels.multiply(row + s.column, s.n, factor);
        written = s.column + s.n;
    }
    std::fill(row + written, row + request.n_columns, 0.0f);
    return static_cast<float>(static_cast<double>(max) + std::log(sum));
}

void compute_group(const RowKernels& kernels, const RowsRequest& request, const RowsPlan& plan,
                   const Group& group) {
    if (plan.way == DotWay::float32) {
        float_dots(kernels, request, plan, group);
    } else {
        engine_dots(request, plan, group);
    }
    for (int32_t h = group.begin; h < group.end; ++h) {
        const float lse =
            softmax(kernels, request, plan, h, group.out + (h - group.begin) * request.n_columns);
        if (group.lse) group.lse[h - group.begin] = lse;
    }
}

void append_groups(const RowsRequest& request, const RowsPlan& plan, std::span<float> out,
                   std::span<float> lse, std::vector<Group>& groups) {
    for (int32_t h = request.head_begin; h < request.head_end;) {
        const int32_t kv_head = h / plan.group;
        const int32_t end = std::min(request.head_end, (kv_head + 1) * plan.group);
        const int32_t row = h - request.head_begin;
        groups.push_back({h, end, kv_head, out.data() + row * request.n_columns,
                          lse.empty() ? nullptr : &lse[size_t(row)]});
        h = end;
    }
}

} // namespace

Result<void> attention_rows_with(const RowKernels& kernels, const RowsRequest& request, std::span<float> out,
                                 std::span<float> lse) {
    auto plan = plan_rows(request, out.size(), lse.size());
    if (!plan) return plan.error();
    std::vector<Group> groups;
    append_groups(request, *plan, out, lse, groups);
    for (const Group& group : groups)
        compute_group(kernels, request, *plan, group);
    return {};
}

Result<void> attention_rows(const RowsRequest& request, std::span<float> out, std::span<float> lse) {
    return attention_rows_with(row_kernels(), request, out, lse);
}

Result<void> attention_rows_parallel(std::span<const RowsRequest> requests,
                                     std::span<const std::span<float>> outs, int32_t n_threads,
                                     std::span<const std::span<float>> lses) {
    if (outs.size() != requests.size() || (!lses.empty() && lses.size() != requests.size())) {
        return Error{ErrorKind::invalid_argument, "every request needs its own output"};
    }
    struct Work {
        size_t request;
        Group group;
    };
    std::vector<RowsPlan> plans;
    std::vector<Work> works;
    std::vector<Group> groups;
    for (size_t i = 0; i < requests.size(); ++i) {
        const std::span<float> lse = lses.empty() ? std::span<float>{} : lses[i];
        auto plan = plan_rows(requests[i], outs[i].size(), lse.size());
        if (!plan)
            return Error{plan.error().kind, "request " + std::to_string(i) + ": " + plan.error().message};
        plans.push_back(std::move(*plan));
        groups.clear();
        append_groups(requests[i], plans.back(), outs[i], lse, groups);
        for (const Group& group : groups)
            works.push_back({i, group});
    }

    // Groups are small against the whole, so whoever is free takes the next one.
    std::atomic<size_t> next{0};
    auto work_off = [&] {
        for (size_t w = next++; w < works.size(); w = next++) {
            const size_t i = works[w].request;
            compute_group(row_kernels(), requests[i], plans[i], works[w].group);
        }
    };
    std::vector<std::jthread> threads; // joined when it goes out of scope
    const size_t n_others =
        std::min(works.size(), static_cast<size_t>(std::max(n_threads, 1))) - (works.empty() ? 0 : 1);
    threads.reserve(n_others);
    try {
        while (threads.size() < n_others)
            threads.emplace_back(work_off);
    } catch (const std::system_error&) {
        // The machine gives no more threads: those there are do the work.
    }
    work_off();
    return {};
}

} // namespace attnscope
