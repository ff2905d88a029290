// Does damage come and go with a rhythm, with the place in the dump, or with the length of the context?
#include "diagnose/causes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace attnscope::diagnose {

namespace {

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
    const double n = static_cast<double>(a.size());
    double mean_a = 0, mean_b = 0, ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        mean_a += a[i] / n;
        mean_b += b[i] / n;
    }
    for (size_t i = 0; i < a.size(); ++i) {
        ab += (a[i] - mean_a) * (b[i] - mean_b);
        aa += (a[i] - mean_a) * (a[i] - mean_a);
        bb += (b[i] - mean_b) * (b[i] - mean_b);
    }
    return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

constexpr size_t longest_period = 512;
constexpr double strong_period = 0.8;
constexpr double strong_correlation = 0.5;

} // namespace

Pattern find_pattern(std::span<const TokenFacts> tokens, const std::vector<bool>& bad) {
    Pattern pattern;
    for (size_t i = 1; i < tokens.size(); ++i) {
        if (tokens[i].kind != tokens[i - 1].kind) {
            pattern.transitions.push_back({tokens[i].index, tokens[i - 1].kind, tokens[i].kind});
        }
    }
    const size_t n_bad = static_cast<size_t>(std::count(bad.begin(), bad.end(), true));
    if (n_bad == 0) {
        pattern.sentence = "Every token is of a kind that attention can be.";
        return pattern;
    }
    if (n_bad == bad.size()) {
        pattern.sentence = "Every token is affected; nothing comes and goes.";
        return pattern;
    }
    std::vector<double> flags, index, context;
    for (size_t i = 0; i < tokens.size(); ++i) {
        flags.push_back(bad[i] ? 1 : 0);
        index.push_back(static_cast<double>(tokens[i].index));
        context.push_back(static_cast<double>(tokens[i].n_context));
    }
    pattern.correlation_with_index = correlation(flags, index);
    pattern.correlation_with_context = correlation(flags, context);

    const double n = static_cast<double>(flags.size()), mean = static_cast<double>(n_bad) / n;
    const double variance = mean * (1 - mean);
    // three repetitions at least, or anything is periodic
    for (size_t lag = 2; lag <= std::min(longest_period, flags.size() / 3); ++lag) {
        double sum = 0;
        for (size_t i = lag; i < flags.size(); ++i) sum += (flags[i] - mean) * (flags[i - lag] - mean);
        const double strength = sum / (static_cast<double>(flags.size() - lag) * variance);
        if (strength > strong_period && strength > pattern.period_strength + 0.05) {
            pattern.period = static_cast<int64_t>(lag);
            pattern.period_strength = strength;
        }
    }
    // long runs look alike at any short lag; a period has to pass through both kinds
    if (pattern.period > 0) {
        bool both = false;
        const size_t lag = static_cast<size_t>(pattern.period);
        for (size_t i = 1; i < lag; ++i) both = both || bad[i] != bad[i - 1];
        if (!both && pattern.transitions.size() <= 2) pattern.period = 0;
    }
    size_t changes = 0;
    for (size_t i = 1; i < bad.size(); ++i) changes += bad[i] != bad[i - 1];
    pattern.sentence =
        fmt::format("{} of {} tokens are affected; good and bad change {} times", n_bad, bad.size(), changes);
    pattern.sentence += pattern.period > 0 ? fmt::format(", every {} tokens (autocorrelation {:.2f})", pattern.period,
                                                         pattern.period_strength)
                                           : ", without a period";
    const auto verdict = [](double r) {
        return std::abs(r) >= strong_correlation ? "correlates" : "does not correlate";
    };
    pattern.sentence +=
        fmt::format("; that {} with the position (r = {:.2f}) and {} with the context length (r = {:.2f}).",
                    verdict(pattern.correlation_with_index), pattern.correlation_with_index,
                    verdict(pattern.correlation_with_context), pattern.correlation_with_context);
    return pattern;
}

double share_advancing(std::span<const TokenFacts> tokens, int64_t TokenFacts::Columns::*column, int64_t& pairs) {
    int64_t advancing = 0;
    pairs = 0;
    for (size_t i = 1; i < tokens.size(); ++i) {
        const int64_t before = tokens[i - 1].columns.*column, now = tokens[i].columns.*column;
        if (before < 0 || now < 0) continue;
        ++pairs;
        advancing += now == before + 1 || (now < before && now <= 4);
    }
    return pairs > 0 ? static_cast<double>(advancing) / static_cast<double>(pairs) : 0;
}

} // namespace attnscope::diagnose
