#include "attention/part_rows.h"

#include <algorithm>
#include <cmath>

namespace attnscope::attention {

namespace {

void dots(const RowKernels& kernels, const PartRequest& r, int32_t kv_head, const Range& keys, const FloatQueries& q) {
    const LayerInfo& layer = *r.layer;
    const int32_t head = kv_head * r.plan->group;
    const uint8_t* k =
        r.k + static_cast<size_t>(keys.begin) * r.k_stride + static_cast<size_t>(kv_head) * r.plan->k_head_bytes;
    float* out = r.numerators + static_cast<size_t>(head) * r.stride + static_cast<size_t>(keys.begin);
    if (r.plan->way == DotWay::engine) {
        EngineDotTask task;
        task.q = r.q + static_cast<size_t>(head) * r.plan->q_head_bytes, task.q_stride = r.plan->q_head_bytes;
        task.n_q = r.plan->group;
        task.k = k, task.k_stride = r.k_stride, task.n = keys.end - keys.begin;
        task.out = out, task.out_stride = r.stride;
        engine_dots(layer, task);
        return;
    }
    DotTask task;
    task.q = q.head(static_cast<size_t>(head)), task.q_stride = q.stride();
    task.n_q = r.plan->group, task.head_dim = layer.head_dim;
    task.k = k, task.k_stride = r.k_stride, task.n = keys.end - keys.begin;
    task.out = out, task.out_stride = r.stride;
    task.any_order = true;
    auto* const f = layer.k_type == DType::f16    ? kernels.dots_f16
                    : layer.k_type == DType::bf16 ? kernels.dots_bf16
                                                  : kernels.dots_f32;
    f(task);
}

} // namespace

void part_rows(const RowKernels& kernels, const PartRequest& r, std::span<PartShare> shares, FloatQueries& q) {
    const LayerInfo& layer = *r.layer;
    const auto n_head = static_cast<size_t>(layer.n_head);
    std::fill(shares.begin(), shares.end(), PartShare());
    if (r.keys.empty()) return;
    if (r.plan->way == DotWay::float32) q.assign(r.q, layer.q_type, n_head, layer.head_dim);
    for (int32_t kv_head = 0; kv_head < layer.n_head_kv; ++kv_head) {
        for (const Range& keys : r.keys) dots(kernels, r, kv_head, keys, q);
        const auto first = static_cast<size_t>(kv_head * r.plan->group);
        for (size_t h = first; h < first + static_cast<size_t>(r.plan->group); ++h) {
            float* row = r.numerators + h * r.stride;
            if (kernels.numerators && layer.softcap == 0 && r.keys.size() == 1) {
                shares[h].sum = kernels.numerators(row + r.keys[0].begin, r.keys[0].end - r.keys[0].begin,
                                                   layer.scale * layer.post_scale, &shares[h].max);
                continue;
            }
            for (const Range& keys : r.keys) {
                const float top = kernels.scores(row + keys.begin, keys.end - keys.begin, layer.scale, layer.softcap,
                                                 layer.post_scale);
                shares[h].max = std::max(shares[h].max, top);
            }
            for (const Range& keys : r.keys)
                shares[h].sum += kernels.exponentials(row + keys.begin, keys.end - keys.begin, shares[h].max);
        }
    }
}

void PartSum::add(const PartShare& part) {
    if (part.max == -std::numeric_limits<float>::infinity()) return;
    const auto apart = [&] { return std::exp(-std::fabs(static_cast<double>(part.max) - static_cast<double>(max_))); };
    if (sum_ == 0) {
        max_ = part.max;
        sum_ = part.sum;
    } else if (part.max > max_) {
        sum_ = sum_ * apart() + part.sum;
        max_ = part.max;
    } else {
        sum_ += part.sum * apart();
    }
}

float PartSum::factor(float max) const {
    if (sum_ == 0 || max == -std::numeric_limits<float>::infinity()) return 0;
    return static_cast<float>(std::exp(static_cast<double>(max) - static_cast<double>(max_)) / sum_);
}

void add_rows(const RowKernels& kernels, const float* rows, size_t stride, std::span<const float> factors,
              std::span<double> sums) {
    if (kernels.add_rows) {
        kernels.add_rows(rows, stride, factors.data(), static_cast<int32_t>(factors.size()),
                         static_cast<int64_t>(sums.size()), sums.data());
        return;
    }
    for (size_t j = 0; j < sums.size(); ++j) {
        float sum = 0;
        for (size_t r = 0; r < factors.size(); ++r) sum += factors[r] * rows[r * stride + j];
        sums[j] += static_cast<double>(sum);
    }
}

void keys_of_part(std::span<const Range> visible, int64_t first, int64_t count, std::vector<Range>& part) {
    part.clear();
    for (const Range& r : visible) {
        const int64_t n = r.end - r.begin;
        const int64_t begin = std::min(std::max<int64_t>(first, 0), n),
                      end = std::min(std::max<int64_t>(first + count, 0), n);
        if (end > begin) part.push_back({r.begin + begin, r.begin + end});
        first -= n;
    }
}

} // namespace attnscope::attention
