#include "attention/softmax.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace attnscope::attention {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The steepness of ALiBi for query head h, as ggml_compute_forward_soft_max_f32 computes it: the geometric
// sequence of Press et al. 2022 (arXiv 2108.12409) for the largest power of two not above n_head; heads
// beyond it take every second member of the sequence for twice as many.
float alibi_slope(int32_t h, int32_t n_head, float max_bias) {
    int32_t n_head_log2 = 1;
    while (n_head_log2 * 2 <= n_head) n_head_log2 *= 2;
    const auto n = static_cast<float>(n_head_log2);
    const float m0 = std::pow(2.0f, -max_bias / n);
    const float m1 = std::pow(2.0f, -(max_bias / 2.0f) / n);
    return h < n_head_log2 ? std::pow(m0, static_cast<float>(h + 1))
                           : std::pow(m1, static_cast<float>(2 * (h - n_head_log2) + 1));
}

// Adds slope * -|distance| to scores of columns [column, column + n); returns the new maximum.
float add_alibi(float* scores, int64_t column, int64_t n, float slope, const SoftmaxTask& task) {
    float max = -infinity;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t distance = static_cast<int64_t>(task.position) - task.positions[static_cast<size_t>(column + i)];
        scores[i] += slope * -static_cast<float>(std::abs(distance));
        max = scores[i] > max ? scores[i] : max;
    }
    return max;
}

// Adds what the head's table has for the distance, beyond its reach for the reach; returns the new maximum.
float add_bias(float* scores, int64_t column, int64_t n, int32_t head, const SoftmaxTask& task) {
    const int64_t reach = task.layer->bias_reach;
    const float* const at_zero = task.layer->bias.data() + head * (2 * reach + 1) + reach;
    float max = -infinity;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t distance = task.positions[static_cast<size_t>(column + i)] - static_cast<int64_t>(task.position);
        scores[i] += at_zero[std::clamp(distance, -reach, reach)];
        max = scores[i] > max ? scores[i] : max;
    }
    return max;
}

// Calls f(column, n) for every run of visible columns, neighbours that touch taken together.
template <class F> void each_run(std::span<const Range> visible, F&& f) {
    for (size_t i = 0; i < visible.size();) {
        const int64_t begin = visible[i].begin;
        int64_t end = visible[i].end;
        while (++i < visible.size() && (visible[i].begin == end || visible[i].begin == visible[i].end))
            end = std::max(end, visible[i].end);
        if (end > begin) f(begin, end - begin);
    }
}

} // namespace

float softmax_row(const RowKernels& kernels, const SoftmaxTask& task, int32_t head, float* row) {
    const LayerInfo& layer = *task.layer;
    const bool alibi = layer.max_bias > 0;
    const float slope = alibi ? alibi_slope(head, layer.n_head, layer.max_bias) : 0.0f;
    float max = -infinity;
    bool sees = false;
    each_run(task.visible, [&](int64_t column, int64_t n) {
        float* x = row + column;
        float top = kernels.scores(x, n, layer.scale, layer.softcap, layer.post_scale);
        if (alibi) top = add_alibi(x, column, n, slope, task);
        if (!layer.bias.empty()) top = add_bias(x, column, n, head, task);
        max = std::max(max, top);
        sees = true;
    });
    const float* sink = layer.sinks.empty() ? nullptr : &layer.sinks[static_cast<size_t>(head)];
    if (!sees) {
        std::fill_n(row, task.n_columns, 0.0f);
        return sink ? *sink : -infinity; // nothing to weigh, but a sink takes its share of nothing
    }
    if (sink) max = std::max(max, *sink);

    double sum = sink ? static_cast<double>(std::exp(*sink - max)) : 0.0;
    each_run(task.visible, [&](int64_t column, int64_t n) { sum += kernels.exponentials(row + column, n, max); });
    const auto factor = static_cast<float>(1.0 / sum);
    int64_t written = 0;
    each_run(task.visible, [&](int64_t column, int64_t n) {
        std::fill(row + written, row + column, 0.0f);
        kernels.multiply(row + column, n, factor);
        written = column + n;
    });
    std::fill(row + written, row + task.n_columns, 0.0f);
    return static_cast<float>(static_cast<double>(max) + std::log(sum));
}

} // namespace attnscope::attention
