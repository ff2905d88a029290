// Rows of attention: plan, dot products, softmax.
#include "attention/dots.h"
#include "attention/kernels/simd.h"
#include "attention/plan.h"
#include "attention/softmax.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <system_error>
#include <thread>

namespace attnscope {

using namespace attention;

namespace {

// Query heads [begin, end) of one request, all served by one KV head, and where their rows go.
struct Group {
    int32_t begin = 0;
    int32_t end = 0;
    int32_t kv_head = 0;
    float* out = nullptr; // (end - begin, n_columns)
    float* lse = nullptr; // (end - begin), or null
};

void float_dots(const RowKernels& kernels, const RowsRequest& request, const RowsPlan& plan, const Group& group) {
    const LayerInfo& layer = *request.layer;
    FloatQueries q;
    q.assign(request.q + static_cast<size_t>(group.begin) * plan.q_head_bytes, layer.q_type,
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

void quantised_dots(const RowsRequest& request, const RowsPlan& plan, const Group& group) {
    EngineDotTask task;
    task.q = request.q + static_cast<size_t>(group.begin) * plan.q_head_bytes;
    task.q_stride = plan.q_head_bytes;
    task.n_q = group.end - group.begin;
    task.out_stride = static_cast<size_t>(request.n_columns);
    for (const KeySegment& segment : plan.segments) {
        task.k = segment.data + static_cast<size_t>(group.kv_head) * plan.k_head_bytes;
        task.k_stride = segment.stride;
        task.n = segment.n;
        task.out = group.out + segment.column;
        engine_dots(*request.layer, task);
    }
}

void compute_group(const RowKernels& kernels, const RowsRequest& request, const RowsPlan& plan, const Group& group) {
    if (plan.way == DotWay::float32) {
        float_dots(kernels, request, plan, group);
    } else {
        quantised_dots(request, plan, group);
    }
    const SoftmaxTask task{request.layer, request.visible, request.n_columns, request.position, request.positions};
    for (int32_t h = group.begin; h < group.end; ++h) {
        const float lse = softmax_row(kernels, task, h, group.out + (h - group.begin) * request.n_columns);
        if (group.lse) group.lse[h - group.begin] = lse;
    }
}

void append_groups(const RowsRequest& request, const RowsPlan& plan, std::span<float> out, std::span<float> lse,
                   std::vector<Group>& groups) {
    for (int32_t h = request.head_begin; h < request.head_end;) {
        const int32_t kv_head = h / plan.group;
        const int32_t end = std::min(request.head_end, (kv_head + 1) * plan.group);
        const int32_t row = h - request.head_begin;
        groups.push_back(
            {h, end, kv_head, out.data() + row * request.n_columns, lse.empty() ? nullptr : &lse[size_t(row)]});
        h = end;
    }
}

} // namespace

Result<void> attention::attention_rows_with(const RowKernels& kernels, const RowsRequest& request, std::span<float> out,
                                            std::span<float> lse) {
    auto plan = plan_rows(request, out.size(), lse.size());
    if (!plan) return plan.error();
    std::vector<Group> groups;
    append_groups(request, *plan, out, lse, groups);
    for (const Group& group : groups) compute_group(kernels, request, *plan, group);
    return {};
}

Result<void> attention_rows(const RowsRequest& request, std::span<float> out, std::span<float> lse) {
    return attention_rows_with(row_kernels(), request, out, lse);
}

Result<void> attention_rows_parallel(std::span<const RowsRequest> requests, std::span<const std::span<float>> outs,
                                     int32_t n_threads, std::span<const std::span<float>> lses) {
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
        if (!plan) return Error{plan.error().kind, "request " + std::to_string(i) + ": " + plan.error().message};
        plans.push_back(std::move(*plan));
        groups.clear();
        append_groups(requests[i], plans.back(), outs[i], lse, groups);
        for (const Group& group : groups) works.push_back({i, group});
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
        while (threads.size() < n_others) threads.emplace_back(work_off);
    } catch (const std::system_error&) {
        // The machine gives no more threads: those there are do the work.
    }
    work_off();
    return {};
}

} // namespace attnscope
