// What causes, kinds and keeps are called.
#include <attnscope/diagnose.h>

namespace attnscope {

const char* cause_name(Cause cause) {
    switch (cause) {
    case Cause::clean: return "clean";
    case Cause::learned_sinks: return "learned-sinks";
    case Cause::quantised: return "quantised";
    case Cause::not_causal: return "not-causal";
    case Cause::evicted: return "evicted";
    case Cause::padding_queries: return "padding-queries";
    case Cause::dropout: return "dropout";
    case Cause::rescaled: return "rescaled";
    case Cause::other_axis: return "other-axis";
    case Cause::sink_column: return "sink-column";
    case Cause::raw_scores: return "raw-scores";
    case Cause::early_scores: return "early-scores";
    case Cause::aliasing: return "aliasing";
    case Cause::race: return "race";
    case Cause::stale_frame: return "stale-frame";
    case Cause::mixture: return "mixture";
    case Cause::padding: return "padding";
    case Cause::cells_for_positions: return "cells-for-positions";
    case Cause::transposed: return "transposed";
    case Cause::kv_heads: return "kv-heads";
    case Cause::half_overflow: return "half-overflow";
    case Cause::corrupt: return "corrupt";
    case Cause::unknown: return "unknown";
    }
    return "unknown";
}

const char* cause_title(Cause cause) {
    switch (cause) {
    case Cause::clean: return "Nothing wrong was found";
    case Cause::learned_sinks: return "Rows sum to less than 1 because the model has learned sinks (not damage)";
    case Cause::quantised: return "Weights stored in coarse steps (not damage)";
    case Cause::not_causal: return "Queries look at later positions (right for an encoder, not for a decoder)";
    case Cause::evicted: return "Positions that no row uses: evicted, or outside of a window (not damage)";
    case Cause::padding_queries: return "Rows of padding, beside sound ones (not damage)";
    case Cause::dropout: return "Dropout was on: the model was in training mode";
    case Cause::rescaled: return "Weights were rescaled: rows do not sum to 1";
    case Cause::other_axis: return "Softmax over another axis than the keys";
    case Cause::sink_column: return "The last column is a sink's, not a position's";
    case Cause::raw_scores: return "Raw scores instead of probabilities";
    case Cause::early_scores: return "Scores from before scaling or mask";
    case Cause::aliasing: return "Layers hold another layer's rows (aliased memory)";
    case Cause::race: return "Read while the engine was writing (a race)";
    case Cause::stale_frame: return "The previous token again (a stale frame)";
    case Cause::mixture: return "Probabilities and scores within one tensor";
    case Cause::padding: return "Padding taken for context";
    case Cause::cells_for_positions: return "Cells of the KV cache taken for positions";
    case Cause::transposed: return "Heads and positions exchanged";
    case Cause::kv_heads: return "KV heads taken for query heads";
    case Cause::half_overflow: return "Half-precision overflow or NaN";
    case Cause::corrupt: return "Truncated or damaged data";
    case Cause::unknown: return "Not attention as it should be, for a reason that is not known";
    }
    return "?";
}

bool cause_is_damage(Cause cause) {
    switch (cause) {
    case Cause::clean:
    case Cause::learned_sinks:
    case Cause::quantised:
    case Cause::not_causal:
    case Cause::evicted:
    case Cause::padding_queries: return false;
    default: return true;
    }
}

const char* token_kind_name(TokenKind kind) {
    switch (kind) {
    case TokenKind::probabilities: return "probabilities";
    case TokenKind::sub_probabilities: return "sums below 1";
    case TokenKind::scores: return "scores";
    case TokenKind::mixed: return "mixed";
    case TokenKind::not_finite: return "not finite";
    case TokenKind::transposed: return "transposed";
    case TokenKind::zeros: return "zeros";
    case TokenKind::unreadable: return "unreadable";
    case TokenKind::weights: return "weights";
    case TokenKind::padding: return "padding";
    }
    return "?";
}

const char* keep_name(Keep keep) {
    switch (keep) {
    case Keep::nothing: return "nothing";
    case Keep::all: return "all";
    case Keep::last_layer: return "last layer";
    case Keep::cropped: return "without padding";
    case Keep::transposed: return "transposed back";
    case Keep::kv_heads: return "one row a KV head";
    case Keep::scores: return "as scores";
    case Keep::normalised: return "rows divided by their sums";
    case Keep::without_last: return "without the last column";
    }
    return "?";
}

} // namespace attnscope
