#include "engine/token_probabilities.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace attnscope::engine {

TokenProbabilities token_probabilities(std::span<const float> logits, int32_t token, int32_t n_top) {
    const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
    const double log_sum = largest + std::log(sum);
    const auto of = [&](int32_t id) { return TokenProbability{id, static_cast<double>(logits[size_t(id)]) - log_sum}; };

    TokenProbabilities out{of(token), {}};
    const size_t n = std::min(logits.size(), size_t(std::max(n_top, 0)));
    if (n == 0) return out;
    std::vector<int32_t> ids(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    // A logit that is no number is the least: an order must be one.
    const auto key = [&](int32_t id) { return std::isnan(logits[size_t(id)]) ? -INFINITY : logits[size_t(id)]; };
    std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(n), ids.end(),
                      [&](int32_t a, int32_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
    for (size_t i = 0; i < n; ++i) out.top.push_back(of(ids[i]));
    return out;
}

} // namespace attnscope::engine
