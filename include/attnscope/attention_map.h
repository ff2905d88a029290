// Attention of many tokens at once: which tokens looked at which columns, as a matrix or as tiles of one. What a viewer
// draws, what a pattern of a head is, and what many tokens together looked at. Each key is read once for a block of
// tokens.
//
//   auto recording = Recording::open("sky.attn");
//   auto source = AttentionSource::of(**recording);
//   auto layer = attention_map(**source, {.rows = {.layers = {12}}, .tokens = {0, 2048}, .each_row = true}); // (1, heads, 2048, 2048)
//   auto tiles = attention_map(**source, {.tokens = {0, 32768}, .tokens_per_tile = 64, .columns_per_tile = 64}); // (512, 512)
//   auto answer = attention_map(**source, {.tokens = {100, 180}, .tokens_per_tile = 80}); // (1, 180): an answer's mean
#pragma once

#include <attnscope/attention_source.h>
#include <attnscope/error.h>
#include <attnscope/row_selection.h>
#include <attnscope/types.h>

#include <cstdint>
#include <vector>

namespace attnscope {

// What a tile holds of the weights of its tokens on its columns.
enum class TileValue {
    // sum over its columns, mean over its tokens: how much of their attention went there. A line of tiles sums to 1
    // (less what a learned sink takes) when the map has all columns
    share,
    largest, // the largest weight
};

struct MapRequest {
    RowSelection rows = {};
    Range tokens = {};           // frames [begin, end) of the source
    Range columns = {};          // [begin, end); empty: all that the tokens see, from column 0
    int64_t tokens_per_tile = 1; // the last tile of a side may be smaller
    int64_t columns_per_tile = 1;
    bool each_row = false; // a map of each selected layer and head; otherwise one, of the mean over the selected rows
    TileValue value = TileValue::share; // `largest` of a mean is the largest entry of the mean rows
    // Weights bit for bit as Recording::rows gives them, added up from there. Otherwise the products of a score are
    // added in whichever order is fastest, and a weight differs by some units in the last place of its score.
    bool exact = false;
    int32_t n_threads = 0; // 0: as many as the machine has
};

struct AttentionMap {
    // (tiles of tokens, tiles of columns); with each_row (layers, heads, tiles of tokens, tiles of columns), and zeros
    // where the layer or head does not exist. Columns that a token does not see weigh 0.
    std::vector<int64_t> shape;
    std::vector<float> values; // C order
    Range columns;             // those that the map covers
    int64_t n_rows = 0;        // rows of a token that exist: what a mean is over
    // One a tile of tokens: how many of its tokens have queries, and rows in the selected layers. Those without count for nothing; a
    // line of tiles without any is 0.
    std::vector<int64_t> n_tokens;
};

// invalid_argument: rows that the model does not have, tokens or columns that are none, a map of more than 2^28
// numbers; not_found as AttentionSource::frame, or a token that sees frames which are not there yet; unsupported as
// attention_rows; damaged and io as Recording; io when there is no memory.
Result<AttentionMap> attention_map(AttentionSource& source, const MapRequest& request);

} // namespace attnscope
