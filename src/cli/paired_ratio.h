// What a comparison in turns says, whatever the machine did meanwhile: medians and what they are worth.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace attnscope::cli {

// Of a sample: its median, its quartiles, and an interval that holds the median of what it was drawn from with at least
// 95% confidence, whatever the distribution: from the k-th smallest to the k-th largest value, where k is the largest
// number such that fewer than k of n fair coins fall heads with a probability of at most 2.5% (Conover, Practical
// Nonparametric Statistics, 3.2). Fewer than six values cannot give 95%: the interval is then all of them.
// All zero for no values.
struct Spread {
    double low = 0, median = 0, high = 0; // quartiles
    double sure_low = 0, sure_high = 0;   // the interval
};

// k of above for n values, at least 1.
inline size_t sure_rank(size_t n) {
    const double log_half = -std::log(2.0) * double(n);
    double below = 0; // probability of fewer than k heads
    for (size_t k = 1; k <= n / 2; ++k) {
        const double heads = double(k - 1);
        below += std::exp(std::lgamma(double(n) + 1) - std::lgamma(heads + 1) - std::lgamma(double(n) - heads + 1) +
                          log_half);
        if (below > 0.025) return std::max<size_t>(k, 2) - 1;
    }
    return std::max<size_t>(n / 2, 1);
}

inline Spread spread(std::vector<double> x) {
    if (x.empty()) return {};
    std::sort(x.begin(), x.end());
    const size_t n = x.size(), rank = sure_rank(n);
    const double median = n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
    return {x[n / 4], median, x[n - 1 - n / 4], x[rank - 1], x[n - rank]};
}

} // namespace attnscope::cli
