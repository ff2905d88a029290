// What a comparison in turns says, whatever the machine did meanwhile: medians and what they are worth.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace attnscope::cli {

// Of a sample: its median, its quartiles, and an interval that holds the median of what it was drawn from with at least
// 95% confidence, whatever the distribution: the order statistics of ranks n/2 -+ 0.98 sqrt(n) (from the binomial
// distribution of how many values lie below the median; Conover, Practical Nonparametric Statistics, 3.2). Fewer than
// six values cannot give 95%: the interval is then all of them. All zero for no values.
struct Spread {
    double low = 0, median = 0, high = 0;     // quartiles
    double sure_low = 0, sure_high = 0;       // the interval
};

inline Spread spread(std::vector<double> x) {
    if (x.empty()) return {};
    std::sort(x.begin(), x.end());
    const size_t n = x.size();
    const double median = n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
    const double half = double(n) / 2, reach = 0.98 * std::sqrt(double(n));
    // Ranks from 1: floor below and its mirror image above.
    const auto rank = static_cast<size_t>(std::max(1.0, std::floor(half - reach)));
    return {x[n / 4], median, x[n - 1 - n / 4], x[rank - 1], x[n - rank]};
}

} // namespace attnscope::cli
