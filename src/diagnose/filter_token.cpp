#include "diagnose/filter_token.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace attnscope::diagnose {

namespace {

KeptToken whole(const DumpToken& token, std::string label) {
    return {token.n_layer, token.n_head, token.n_context, {token.values.begin(), token.values.end()}, std::move(label)};
}

// Rows of some heads and columns: `head_step` 1 keeps all heads.
KeptToken part(const DumpToken& token, int32_t first_layer, int32_t head_step, int64_t columns, std::string label) {
    KeptToken kept{token.n_layer - first_layer, token.n_head / head_step, columns, {}, std::move(label)};
    for (int32_t l = first_layer; l < token.n_layer; ++l) {
        for (int32_t h = 0; h < token.n_head; h += head_step) {
            const auto row = token.values.begin() + (int64_t(l) * token.n_head + h) * token.n_context;
            kept.values.insert(kept.values.end(), row, row + columns);
        }
    }
    return kept;
}

// The numbers lie as (layer, position, head). Either the stated shape says so, or it was stated the other way
// round.
KeptToken exchanged(const DumpToken& token) {
    const int64_t size = int64_t(token.n_head) * token.n_context;
    const auto back = [&](int64_t heads, int64_t positions) {
        KeptToken kept{token.n_layer, static_cast<int32_t>(heads), positions, {}, "heads and positions exchanged back"};
        kept.values.resize(token.values.size());
        for (int64_t l = 0; l < token.n_layer; ++l) {
            for (int64_t p = 0; p < positions; ++p) {
                for (int64_t h = 0; h < heads; ++h) {
                    kept.values[size_t(l * size + h * positions + p)] = token.values[size_t(l * size + p * heads + h)];
                }
            }
        }
        return kept;
    };
    KeptToken kept = back(token.n_head, token.n_context);
    double sum = 0;
    for (int64_t p = 0; p < kept.n_context; ++p) sum += static_cast<double>(kept.values[size_t(p)]);
    return sum <= 1.01 && (sum >= 0.99 || token.n_context > token.n_head) ? kept : back(token.n_context, token.n_head);
}

std::optional<KeptToken> kept_part(const DumpToken& token, const TokenFacts& facts, Keep keep) {
    switch (keep) {
    case Keep::nothing: return std::nullopt;
    case Keep::all: return whole(token, "");
    case Keep::scores: return whole(token, "scores, not probabilities");
    case Keep::last_layer:
        return part(
            token, token.n_layer - 1, 1, token.n_context,
            fmt::format("the last layer only; the capture held it {} times and lost the others", token.n_layer));
    case Keep::cropped:
        return part(token, 0, 1, token.n_context - facts.columns.padding,
                    fmt::format("without {} columns of padding", facts.columns.padding));
    case Keep::transposed: return exchanged(token);
    case Keep::normalised: {
        KeptToken kept = whole(token, "each row divided by its sum");
        for (size_t r = 0; r + size_t(token.n_context) <= kept.values.size(); r += size_t(token.n_context)) {
            double sum = 0;
            for (size_t c = 0; c < size_t(token.n_context); ++c) sum += static_cast<double>(kept.values[r + c]);
            for (size_t c = 0; sum > 0 && c < size_t(token.n_context); ++c)
                kept.values[r + c] = static_cast<float>(static_cast<double>(kept.values[r + c]) / sum);
        }
        return kept;
    }
    case Keep::without_last:
        if (token.n_context < 2) return std::nullopt;
        return part(token, 0, 1, token.n_context - 1, "without the last column, a sink's");
    case Keep::kv_heads:
        return part(token, 0, facts.layers.head_group, token.n_context,
                    "one row for each KV head, not for each query head");
    }
    return std::nullopt;
}

} // namespace

std::optional<KeptToken> keep_token(const DumpToken& token, const TokenFacts& facts, Keep keep) {
    std::optional<KeptToken> kept = kept_part(token, facts, keep);
    constexpr std::string_view not_there = " of its rows are not there: zeros stand in their place";
    if (kept && token.missing_rows > 0 && token.kept_as.find(not_there) == std::string::npos) // a folder has no mark
        kept->label += fmt::format("{}{}{}", kept->label.empty() ? "" : "; ", token.missing_rows, not_there);
    return kept;
}

} // namespace attnscope::diagnose
