// What only the caller knows: of the tokens of one decode, and which of a generation's frames are wanted with what.
#pragma once

#include <attnscope/row_selection.h>
#include <attnscope/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace attnscope::capture {

// A picture or a sound among the tokens of a decode: the patches [first, first + n), all of one sequence. The capture
// fills in sequence and columns of `what`.
struct MediaTokens {
    size_t first = 0, n = 0;
    Media what;
};

// Which graphs compute some tokens: those of a model that has one kind, or of the two halves of one that reads a text with an
// encoder, at once, and then writes with a decoder. Both halves are told of, the encoder's first, before frames are wanted.
enum class ModelPart { whole, encoder, decoder };

// The tokens of one decode, in the order of its batch. Borrowed for the time of the decode.
struct Tokens {
    std::span<const int32_t> ids; // -1: unknown, or an embedding; as many as there are tokens
    // for graphs that do not tell (no RoPE); empty: a token's position is its frame's index
    std::span<const int32_t> positions = {};
    FrameKind kind = FrameKind::prompt;
    std::span<const int64_t> sequences = {}; // which each of them continues; empty: all sequence 0
    std::span<const FrameKind> kinds = {};   // of each of them; empty: all `kind`
    std::span<const MediaTokens> media = {};
    // True: the tokens are in the order of the graphs (for callers who read the graphs' inputs). False: in the caller's
    // order; where a cache has streams, those of a sequence go to the stream with its number, because llama.cpp builds
    // such graphs stream by stream.
    bool in_graph_order = false;
    ModelPart part = ModelPart::whole;
    // A token of this sequence has no frame: what it sees is not known. Nor is its cell, then.
    static constexpr int64_t nobody = -1;

    int64_t sequence(size_t i) const { return i < sequences.size() ? sequences[i] : 0; }
    FrameKind kind_of(size_t i) const { return i < kinds.size() ? kinds[i] : kind; }
};

// Sequence `to` begins anew as the first `n` frames of `from`; the engine lets both see the same cells
// (llama_memory_seq_cp). Where a cache has streams, the engine copies the cells instead, each to the same place: from
// from_stream to to_stream (-1: the stream with the sequence's number).
struct Shared {
    int64_t from = 0, to = 0, n = 0;
    int64_t from_stream = -1, to_stream = -1;
};

// Rows whose mean is computed beside the model where it can be.
struct MeanRequest {
    RowSelection rows;
    std::function<bool(int64_t sequence, int64_t index)> of; // which frames; empty: all
};

// Of one generation.
struct Wanted {
    // frames for which this returns false come without Q; empty: all have theirs
    std::function<bool(int64_t sequence, int64_t index)> queries;
    std::optional<MeanRequest> mean;

    bool wants_queries(int64_t sequence, int64_t index) const { return !queries || queries(sequence, index); }
    bool wants_mean(int64_t sequence, int64_t index) const { return mean && (!mean->of || mean->of(sequence, index)); }
};

} // namespace attnscope::capture
