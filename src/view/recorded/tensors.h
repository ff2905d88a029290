// Queries and keys of a whole recording in memory, for who looks at many of its tokens: a map of all heads, a picture of one, who
// reads a token. Rows are computed by the same kernels from the same bytes as Recording::rows, so they are the same numbers.
//
// Of a damaged recording everything that can be read is there: a token whose queries, or a layer whose keys cannot be read has no
// rows, and damage() says what was wrong first.
#pragma once

#include "view/recorded/courtesy.h"
#include "view/recorded/keys.h"
#include "view/recorded/token_row.h"

#include <attnscope/error.h>
#include <attnscope/recording.h>
#include <attnscope/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace attnscope::view {

// Layer and head as indices; -1: all. The reduction over the selected rows that exist.
struct Selection {
    int32_t layer = -1;
    int32_t head = -1;
    bool max = false;
    bool operator==(const Selection&) const = default;
};

// Returns false to stop.
using Progress = std::function<bool(double)>;

class RecordedTensors {
public:
    // What somebody has of this recording already.
    struct Held {
        std::shared_ptr<RecordedKeys> keys;              // of as many tokens; null: they are read here
        std::shared_ptr<const RecordedTensors> previous; // of fewer tokens, before it grew; or null
        std::shared_ptr<Courtesy> courtesy;              // to whom passes give way; or null
    };
    // unsupported: queries and keys take more than `most_bytes`; io: `progress` stopped it.
    static Result<std::shared_ptr<const RecordedTensors>> load(Recording& recording, size_t most_bytes,
                                                               const Progress& progress = {}, const Held& held = {});

    const Geometry& geometry() const { return geometry_; }
    int64_t size() const { return static_cast<int64_t>(frames_.size()); }
    const Frame& frame(int64_t i) const { return frames_[static_cast<size_t>(i)]; } // without q and k
    bool has_rows(int64_t i) const { return has_q_[static_cast<size_t>(i)] != 0; }
    bool has_layer(int32_t layer) const;
    // Of an encoder's layers a decoder's token has none.
    bool has_rows(int64_t i, int32_t layer) const {
        return has_rows(i) && attnscope::has_rows(geometry_.layers[static_cast<size_t>(layer)], frame(i).visible);
    }
    // Columns [begin, end) of the tokens that have rows in a layer: all; of an encoder and its decoder those of one of them.
    Range tokens_of(int32_t layer) const;
    // Columns [begin, end) that its rows can look at: all; of an encoder and its decoder those of one of them.
    Range columns_of(int32_t layer) const;
    // Tokens that no selected layer can look at, whatever its rows say: of an encoder and its decoder one of both, or none.
    Range unseen_by(const Selection& selection) const;
    // The row that tells of a token in what was read: of one that looks both ways (an encoder's) its own, of every other the row that
    // chose it, which is that of the token before. -1: nothing chose it.
    int64_t row_that_tells_of(int64_t i) const;
    int64_t n_columns(int64_t i) const { return n_columns_[static_cast<size_t>(i)]; }
    const std::string& damage() const { return damage_; }
    size_t bytes() const;
    // Layers and heads that a selection means and that exist; invalid_argument when there are none.
    Result<void> check(const Selection& selection) const;
    std::vector<int32_t> layers_of(const Selection& selection) const;
    Range heads_of(const Selection& selection, int32_t layer) const;
    int64_t n_rows(const Selection& selection) const;            // rows of one token, at most
    int64_t n_rows(const Selection& selection, int64_t i) const; // of this one

    // Rows of heads [begin, end) of one layer: (heads, n_columns(i)). `lse`: one a head, or empty. has_rows and has_layer must hold.
    Result<void> rows(int64_t i, int32_t layer, Range heads, std::span<float> out, std::span<float> lse = {}) const;
    // Their weights on the columns of `part` alone, given the whole rows' `lse`: (heads, part). Differs from rows() by rounding.
    Result<void> part(int64_t i, int32_t layer, Range heads, Range part, std::span<const float> lse,
                      std::span<float> out) const;
    // Why a token has none of the selected rows, a sentence; empty: it has one.
    std::string why_no_row(int64_t i, const Selection& selection) const;
    // Why no row of the selection can look at a token, a sentence; empty: some can.
    std::string why_unseen(int64_t i, const Selection& selection) const;
    // The mean or maximum over the selected rows: (n_columns(i)). not_found where the token has none.
    Result<void> reduced(int64_t i, const Selection& selection, std::vector<float>& out) const;

    // What rows are computed from. has_rows(i) and has_layer(layer) must hold.
    const uint8_t* query(int64_t i, int32_t layer) const {
        return q_.data() + static_cast<size_t>(i) * geometry_.q_bytes() + geometry_.q_offset(layer);
    }
    const LayerTiles& tiles(int32_t layer) const {
        return *keys_->there(geometry_.layers[static_cast<size_t>(layer)].k_layer);
    }
    std::span<const int32_t> positions() const { return positions_; }
    // Of a pass, between two blocks of rows.
    void give_way() const {
        if (courtesy_) courtesy_->give_way();
    }

    // Logarithms of the denominators of all rows of a head, (size()), computed when first asked for. NaN where a token has no
    // rows. Thread-safe.
    Result<std::span<const double>> denominators(int32_t layer, int32_t head) const;
    // Are those of every row of the selection there?
    bool has_denominators(const Selection& selection) const;
    // Of whoever had every row of a head in hand for another reason: (size()), as denominators() gives them.
    void offer_denominators(int32_t layer, int32_t head, std::vector<double> values) const;
    // Brings them there; io when `progress` says no.
    Result<void> prepare_denominators(const Selection& selection, const Progress& progress) const;

private:
    RecordedTensors() = default;
    Result<void> read(Recording& recording, const Held& held, const Progress& progress);
    void look_around(); // who sees later tokens, and where a decoder begins
    TokenAt at(int64_t i) const {
        const auto n = static_cast<size_t>(n_columns(i));
        return {&frame(i), q_.data() + static_cast<size_t>(i) * geometry_.q_bytes(), n_columns(i),
                std::span(positions_).first(n)};
    }

    Geometry geometry_;
    std::vector<Frame> frames_;
    std::vector<int32_t> positions_;
    std::vector<int64_t> n_columns_;
    std::vector<int64_t> seen_from_before_; // of each token: the largest n_columns of those before it
    int64_t decoder_ = 0;                   // the first token of a decoder that stands behind its encoder; size(): none
    std::vector<uint8_t> has_q_;
    std::vector<uint8_t> q_; // (frame, Geometry::q_bytes)
    std::shared_ptr<RecordedKeys> keys_;
    std::shared_ptr<const Courtesy> courtesy_;
    std::string damage_;

    struct Denominators {
        std::once_flag once;
        std::atomic<bool> ready{false};
        std::vector<double> before; // of the tokens that were there before the recording grew: they stay what they are
        std::vector<double> values; // a float's rounding would be one of the weights'
        Result<void> status;
    };
    Denominators& denominators_of(int32_t layer, int32_t head) const {
        return *denominators_[static_cast<size_t>(layer) * static_cast<size_t>(geometry_.max_heads()) +
                              static_cast<size_t>(head)];
    }
    mutable std::vector<std::unique_ptr<Denominators>> denominators_; // (layer, head)
};

} // namespace attnscope::view
