// Rows of many tokens of a source at once: the keys of a layer are read once for all of them.
#pragma once

#include "attention/block_rows.h"
#include "view/crew.h"
#include "view/key_reader.h"
#include "view/selection.h"

#include <attnscope/attention_source.h>

#include <cstdint>
#include <vector>

namespace attnscope::view {

// Width of the frame's rows, as in Recording::rows: its index + 1, or more where it sees later frames of its batch. The
// kernels check nothing, so it is checked here: invalid_argument for what is no frame of this source, not_found where
// it has no queries or sees frames that the source does not have.
Result<int64_t> columns_of(const Frame& frame, const AttentionSource& source);

// What of some tokens' frames their rows are made of. Tokens whose queries were not kept are left out.
struct TokenBatch {
    struct Token {
        int64_t index = 0;
        int64_t n_columns = 0;
        int32_t position = 0;
        bool batched = false;
        std::vector<Ranges> visible;
    };
    std::vector<Token> tokens;
    std::vector<std::vector<uint8_t>> q; // one a layer of the selection: (tokens, LayerInfo::q_bytes)
    int64_t n_columns = 0;               // of the widest
    int64_t end = 0;                     // frames from `begin` to here were looked at
};
// Frames from `begin` on, at most up to `end`, and no more than `max_tokens` or some dozen megabytes of queries; one at
// least.
Result<TokenBatch> load_tokens(AttentionSource& source, const SelectedRows& selection, int64_t begin, int64_t end,
                               int64_t max_tokens);

// Takes rows as they come. Called by the members of a crew, never by two at once for the same tokens.
class RowTaker {
public:
    virtual ~RowTaker() = default;
    // Rows of tokens [first, first + n) of the batch, of the layer and head at these places of the selection.
    virtual void take(size_t layer, size_t head, size_t first, size_t n, const attention::BlockRows& rows,
                      int32_t member) = 0;
    // All selected heads of the layer were taken for these tokens, by this member.
    virtual void end_layer(size_t first, size_t n, int32_t member) = 0;
};

// `exact`: BlockRequest::exact. The selection's rows must have plans (check_plans).
Result<void> compute_batch(AttentionSource& source, KeyReader& keys, const SelectedRows& selection,
                           const TokenBatch& batch, bool exact, Crew& crew, RowTaker& taker);

// Of how many tokens a block of compute_batch is at most.
size_t max_block_tokens(int64_t n_columns, bool exact);

} // namespace attnscope::view
