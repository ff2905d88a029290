// What a client wants of the attention of a generation, and the answer for one token. Plain data and pure functions.
// attention_view.h computes answers; docs/live.md shows each reduction with its formula and source.
//
// a[l][h][j] is the weight that query head h of layer l gives to column j (Frame: a column is the index of the token
// there); n is the number of columns. "The selected rows" are those of the RowSelection that exist: what is none weighs
// nothing in any mean.
#pragma once

#include <attnscope/error.h>
#include <attnscope/row_selection.h>
#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attnscope {

// clang-format off
enum class Reduce {
    none,           // (layers, heads, n)  every selected row, bit for bit what Recording::rows gives
    mean,           // (n)                 m[j] = mean over the selected rows of a[l][h][j]; Halo Weave's "aggregated"
    max,            // (n)                 max over the selected rows
    per_layer,      // (layers, n)         mean over the selected heads of each layer
    top_k,          // (k)                 the k largest m[j], largest first, equal ones in column order; `columns` says where
    spans,          // (spans)             sum of m[j] over each span: which paragraph did this token look at
    lookback_ratio, // (layers, heads)     C / (C + G), C = mean of a[l][h][j] over the prompt's columns, G = mean over the
                    //                     generated ones; Lookback Lens, Chuang et al. 2024 (arXiv 2407.07071). 1 while
                    //                     nothing is generated; 0 where the row gives nothing to either
    entropy,        // (layers, heads)     -sum_j a ln a, in nats; see row_entropy
    first_share,    // (layers, heads)     a[l][h][0], the attention sink of Xiao et al. 2023 (arXiv 2309.17453)
};
// clang-format on
// Names as in JSON: "none", "mean", "max", "per_layer", "top_k", "spans", "lookback_ratio", "entropy", "first_share".
const char* reduce_name(Reduce reduce);
Result<Reduce> reduce_from_name(std::string_view name); // the error lists the names

// How values travel.
enum class AttentionFormat {
    f32, // IEEE binary32, little-endian
    f16, // IEEE binary16, little-endian, rounded to nearest even
    u8,  // one byte a value and one float32 scale a row: value = byte * scale, scale = largest of the row / 255
};
const char* attention_format_name(AttentionFormat format); // "f32", "f16", "u8"
Result<AttentionFormat> attention_format_from_name(std::string_view name);

// What is summed up over the tokens of a generation; position_scores.h has the formulas.
enum class Accumulate { total, mean, window_mean, last, brightness };
const char* accumulate_name(Accumulate what); // "total", "mean", "window_mean", "last", "brightness"
Result<Accumulate> accumulate_from_name(std::string_view name);

struct AttentionRequest {
    RowSelection rows = {};
    Reduce reduce = Reduce::none;
    AttentionFormat format = AttentionFormat::f32;
    // Only the last `window` columns are answered (none, mean, max, per_layer) or searched (top_k); their weights stay
    // what they are. 0: all.
    int64_t window = 0;
    int32_t top_k = 16; // of Reduce::top_k; at least 1
    // of Reduce::spans: columns [begin, end), in any order, overlapping or not. Columns that do not exist yet weigh
    // nothing
    std::vector<Range> spans = {};
    int32_t every = 1; // an answer for one token in `every`: the first, and every `every`-th after it

    // Kept from token to token, fed by every token whatever `every` says, with the mean over the selected rows.
    std::vector<Accumulate> accumulate = {};
    int32_t window_rows = 32; // W of Accumulate::window_mean: the last W tokens
};

// Most of anything that a request may ask for: a stranger's request is checked against these.
constexpr int32_t max_top_k = 4096;
constexpr size_t max_spans = 4096;
constexpr int32_t max_window_rows = 512;

// Is it made of the mean over the selected rows, and of nothing else: mean, top_k, spans?
bool is_of_mean(Reduce reduce);
// Does answering or accumulating need that mean?
bool needs_mean(const AttentionRequest& request);
// Does the model have the layers and heads? invalid_argument, naming the field and the bound it breaks.
Result<void> check_selection(const RowSelection& rows, const Geometry& geometry);
// Is the request one that this model can answer? invalid_argument, naming the field and the bound it breaks.
Result<void> check_request(const AttentionRequest& request, const Geometry& geometry);

// One token's answer.
struct AttentionAnswer {
    int64_t index = 0; // of the frame whose query these weights belong to
    Reduce reduce = Reduce::none;
    int64_t n_columns = 0;        // columns of the whole row: the context that this token saw
    int64_t first_column = 0;     // column of the first value of each row; above 0 only with a window
    std::vector<int64_t> shape;   // as listed at Reduce; with a window n is the window's width
    std::vector<float> values;    // C order
    std::vector<int64_t> columns; // of Reduce::top_k: one a value; otherwise empty

    // Values in a row: the length of the last dimension.
    int64_t row_length() const { return shape.empty() ? 0 : shape.back(); }
};

// An answer's values as bytes. f32 and f16: the values in order. u8: one float32 scale a row, then one byte a value; a
// value differs from what was computed by at most half the scale, a row of zeros has scale 0, a NaN makes its row's
// scale NaN. Bytes are little-endian on every machine.
std::vector<uint8_t> encode_values(std::span<const float> values, int64_t row_length, AttentionFormat format);
// How many bytes that makes.
size_t encoded_bytes(size_t n_values, int64_t row_length, AttentionFormat format);
// The values again, for clients and tests. invalid_argument where the size does not fit.
Result<std::vector<float>> decode_values(std::span<const uint8_t> bytes, size_t n_values, int64_t row_length,
                                         AttentionFormat format);

// Which columns hold which characters of the prompt. `pieces` are the texts of the prompt's tokens in order (column
// first_column + i holds pieces[i]), `text` the prompt they were made of, in UTF-8; a character is a Unicode code point,
// as in Python's indices (JavaScript's count UTF-16 units). A token belongs to a range when any of its bytes does, so
// neighbouring ranges may share a token. Tokens that stand for nothing in the text (a leading "<s>", a space that the
// tokeniser put before the first word) belong to none. An empty range gives an empty range.
// Errors: invalid_argument when a range is not inside the text, when the text is not UTF-8, or when the pieces do not
// spell the text (a tokeniser that normalises).
Result<std::vector<Range>> columns_of_characters(std::span<const std::string> pieces, std::string_view text,
                                                 std::span<const Range> characters, int64_t first_column = 0);

} // namespace attnscope
