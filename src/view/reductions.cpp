#include "view/reductions.h"

#include <attnscope/rows.h>

#include <algorithm>
#include <string>

namespace attnscope::view {

namespace {

double sum_of(std::span<const float> x) {
    double sum = 0;
    for (const float v : x) sum += static_cast<double>(v);
    return sum;
}

float lookback_ratio(std::span<const float> row, int64_t n_prompt) {
    const size_t prompt = static_cast<size_t>(std::clamp<int64_t>(n_prompt, 0, static_cast<int64_t>(row.size())));
    const size_t rest = row.size() - prompt;
    const double context = prompt ? sum_of(row.first(prompt)) / static_cast<double>(prompt) : 0.0;
    const double generated = rest ? sum_of(row.subspan(prompt)) / static_cast<double>(rest) : 0.0;
    return context + generated == 0 ? 0.0f : static_cast<float>(context / (context + generated));
}

std::vector<int64_t> shape_of(const AttentionRequest& request, const SelectedRows& selection, int64_t width) {
    const auto n_layers = static_cast<int64_t>(selection.layers.size());
    switch (request.reduce) {
    case Reduce::none: return {n_layers, selection.n_heads, width};
    case Reduce::mean:
    case Reduce::max: return {width};
    case Reduce::per_layer: return {n_layers, width};
    case Reduce::top_k: return {0};
    case Reduce::spans: return {static_cast<int64_t>(request.spans.size())};
    case Reduce::lookback_ratio:
    case Reduce::entropy:
    case Reduce::first_share: return {n_layers, selection.n_heads};
    }
    return {};
}

} // namespace

size_t n_values(const AttentionAnswer& answer) {
    size_t n = 1;
    for (const int64_t extent : answer.shape)
        n *= static_cast<size_t>(extent); // a model's rows times a context: far below 2^64
    return n;
}

Result<AttentionAnswer> start_answer(const AttentionRequest& request, const SelectedRows& selection, int64_t index,
                                     int64_t n_columns) {
    AttentionAnswer answer;
    answer.index = index;
    answer.reduce = request.reduce;
    answer.n_columns = n_columns;
    answer.first_column = request.window > 0 ? std::max<int64_t>(0, n_columns - request.window) : 0;
    answer.shape = shape_of(request, selection, n_columns - answer.first_column);
    const size_t n = n_values(answer);
    if (n > max_answer_floats || selection.layers.size() * static_cast<size_t>(n_columns) > max_answer_floats)
        return Error{ErrorKind::invalid_argument,
                     "an answer of " + std::to_string(n) + " numbers is too large: ask for fewer layers or heads"};
    return answer;
}

void take_row(const AttentionRequest& request, int64_t n_prompt, std::span<const float> row, size_t layer, size_t head,
              AttentionAnswer& answer) {
    if (request.reduce == Reduce::none) {
        const auto n_heads = static_cast<size_t>(answer.shape[1]);
        const std::span<const float> shown = row.subspan(static_cast<size_t>(answer.first_column));
        std::copy(shown.begin(), shown.end(), answer.values.data() + (layer * n_heads + head) * shown.size());
        return;
    }
    if (request.reduce != Reduce::lookback_ratio && request.reduce != Reduce::entropy &&
        request.reduce != Reduce::first_share)
        return; // from the sums and maxima of layers
    float& value = answer.values[layer * static_cast<size_t>(answer.shape[1]) + head];
    if (request.reduce == Reduce::lookback_ratio)
        value = lookback_ratio(row, n_prompt);
    else
        value = static_cast<float>(request.reduce == Reduce::entropy ? row_entropy(row) : row_first_share(row));
}

void take_mean(const AttentionRequest& request, std::span<const float> mean, AttentionAnswer& answer) {
    const auto n_columns = static_cast<int64_t>(mean.size());
    if (request.reduce == Reduce::mean) {
        answer.values.assign(mean.begin() + answer.first_column, mean.end());
    } else if (request.reduce == Reduce::top_k) {
        answer.values.clear();
        const auto best =
            row_top_k(mean.subspan(static_cast<size_t>(answer.first_column)), static_cast<size_t>(request.top_k));
        for (const ColumnWeight& w : best) {
            answer.columns.push_back(w.column + answer.first_column);
            answer.values.push_back(w.weight);
        }
        answer.shape = {static_cast<int64_t>(best.size())};
    } else if (request.reduce == Reduce::spans) {
        answer.values.assign(request.spans.size(), 0.0f);
        for (size_t s = 0; s < request.spans.size(); ++s) {
            const int64_t begin = std::min(request.spans[s].begin, n_columns);
            const int64_t end = std::min(request.spans[s].end, n_columns);
            answer.values[s] =
                static_cast<float>(sum_of(mean.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin))));
        }
    }
}

} // namespace attnscope::view
