#include <attnscope/prune.h>

#include "base/enum_names.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>

namespace attnscope {

namespace {

constexpr base::EnumNames<PrunePolicy, 4> policies{{
    {PrunePolicy::brightness, "brightness"},
    {PrunePolicy::h2o, "h2o"},
    {PrunePolicy::snapkv, "snapkv"},
    {PrunePolicy::tova, "tova"},
}};

Error refuse(const std::string& message) {
    return {ErrorKind::invalid_argument, message};
}

Result<void> check(const PruneRequest& request) {
    const auto n = static_cast<int64_t>(request.scores.size());
    for (size_t i = 0; i < request.scores.size(); ++i) {
        if (!std::isfinite(request.scores[i])) return refuse("scores: number " + std::to_string(i) + " is not finite");
    }
    int64_t at = 0;
    for (size_t i = 0; i < request.chunks.size(); ++i) {
        const Range& chunk = request.chunks[i];
        if (chunk.begin != at || chunk.end <= chunk.begin || chunk.end > n) {
            return refuse("chunks: number " + std::to_string(i) + " is [" + std::to_string(chunk.begin) + ", " +
                          std::to_string(chunk.end) + "), but must begin at " + std::to_string(at) +
                          ", hold a token and end at " + std::to_string(n) + " or before");
        }
        at = chunk.end;
    }
    if (!request.chunks.empty() && at != n)
        return refuse("chunks end at token " + std::to_string(at) + " of " + std::to_string(n));
    const int64_t n_chunks = request.chunks.empty() ? n : static_cast<int64_t>(request.chunks.size());
    for (const int64_t chunk : request.pinned) {
        if (chunk < 0 || chunk >= n_chunks) {
            return refuse("pinned: there is no chunk " + std::to_string(chunk) + " among " + std::to_string(n_chunks));
        }
    }
    if (request.budget < 0) return refuse("budget must not be negative");
    if (request.recent < 0) return refuse("recent must not be negative");
    if (request.pool < 1 || request.pool % 2 == 0) return refuse("pool must be an odd number");
    return {};
}

// torch.nn.functional.avg_pool1d(kernel_size = width, padding = width // 2, stride = 1), by prefix sums.
std::vector<double> smooth(std::span<const double> x, int64_t width) {
    const auto n = static_cast<int64_t>(x.size());
    std::vector<double> before(x.size() + 1, 0.0);
    std::partial_sum(x.begin(), x.end(), before.begin() + 1);
    std::vector<double> out(x.size());
    for (int64_t i = 0; i < n; ++i) {
        const int64_t begin = std::max<int64_t>(0, i - width / 2);
        const int64_t end = i + 1 + std::min(n - i - 1, width / 2);
        out[static_cast<size_t>(i)] =
            (before[static_cast<size_t>(end)] - before[static_cast<size_t>(begin)]) / static_cast<double>(width);
    }
    return out;
}

} // namespace

const char* prune_policy_name(PrunePolicy policy) {
    return base::name_of(policies, policy);
}
Result<PrunePolicy> prune_policy_from_name(std::string_view name) {
    return base::value_of(policies, name, "policy");
}

Result<PruneResult> prune(const PruneRequest& request) {
    if (auto ok = check(request); !ok) return ok.error();
    const auto n_tokens = static_cast<int64_t>(request.scores.size());
    std::vector<Range> single;
    std::span<const Range> chunks = request.chunks;
    if (chunks.empty()) {
        for (int64_t i = 0; i < n_tokens; ++i) single.push_back({i, i + 1});
        chunks = single;
    }

    std::vector<double> smoothed;
    std::span<const double> scores = request.scores;
    if (request.policy == PrunePolicy::snapkv && request.pool > 1) {
        smoothed = smooth(scores, request.pool);
        scores = smoothed;
    }
    const bool keeps_recent = request.policy == PrunePolicy::h2o || request.policy == PrunePolicy::snapkv;
    const int64_t recent_from = keeps_recent ? n_tokens - std::min(request.recent, n_tokens) : n_tokens;

    PruneResult result;
    std::vector<bool> stays(chunks.size());
    for (const int64_t chunk : request.pinned) stays[static_cast<size_t>(chunk)] = true;
    for (size_t i = 0; i < chunks.size(); ++i) {
        const auto begin = scores.begin() + chunks[i].begin;
        const auto end = scores.begin() + chunks[i].end;
        result.chunk_scores.push_back(std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin));
        if (chunks[i].end > recent_from) stays[i] = true;
    }

    std::vector<int64_t> order;
    for (size_t i = 0; i < chunks.size(); ++i) {
        if (!stays[i]) order.push_back(static_cast<int64_t>(i));
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return result.chunk_scores[static_cast<size_t>(a)] < result.chunk_scores[static_cast<size_t>(b)];
    });
    int64_t left = n_tokens;
    for (const int64_t chunk : order) {
        if (left <= request.budget) break;
        const Range& range = chunks[static_cast<size_t>(chunk)];
        left -= range.end - range.begin;
        result.dropped.push_back(chunk);
    }
    result.fits = left <= request.budget;
    std::sort(result.dropped.begin(), result.dropped.end());

    size_t next = 0;
    for (size_t i = 0; i < chunks.size(); ++i) {
        const Range& range = chunks[i];
        if (next < result.dropped.size() && result.dropped[next] == static_cast<int64_t>(i)) {
            ++next;
            if (!result.dropped_tokens.empty() && result.dropped_tokens.back().end == range.begin)
                result.dropped_tokens.back().end = range.end;
            else
                result.dropped_tokens.push_back(range);
            continue;
        }
        for (int64_t token = range.begin; token < range.end; ++token) result.kept_tokens.push_back(token);
    }
    return result;
}

} // namespace attnscope
