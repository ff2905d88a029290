// What only the caller knows: of the tokens of one decode, and which of a generation's frames are wanted with what.
#pragma once

#include <attnscope/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace attnscope::capture {

// The tokens of one decode, in the order in which the engine's graphs compute them. Borrowed for the time of the decode.
struct Tokens {
    std::span<const int32_t> ids; // -1: unknown, or an embedding; as many as there are tokens
    // for graphs that do not tell (no RoPE); empty: a token's position is its frame's index
    std::span<const int32_t> positions;
    FrameKind kind = FrameKind::prompt;

    // The first `n` tokens, which are taken away.
    Tokens take(size_t n) {
        Tokens taken{ids.first(n), positions.first(positions.empty() ? 0 : n), kind};
        ids = ids.subspan(n);
        positions = positions.subspan(taken.positions.size());
        return taken;
    }
};

// Rows whose mean is computed beside the model where it can be: these layers and heads of each of them (empty: all).
struct MeanRequest {
    std::vector<int32_t> layers, heads;
    std::function<bool(int64_t index)> of; // which frames; empty: all
};

// Of one generation.
struct Wanted {
    // frames for which this returns false come without Q; empty: all have theirs
    std::function<bool(int64_t index)> queries;
    std::optional<MeanRequest> mean;

    bool wants_queries(int64_t index) const { return !queries || queries(index); }
    bool wants_mean(int64_t index) const { return mean && (!mean->of || mean->of(index)); }
};

} // namespace attnscope::capture
