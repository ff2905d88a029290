// Rows of attention from queries and keys, and what is made of rows. Pure functions of memory; thread-safe.
#pragma once

#include <attnscope/error.h>
#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope {

// A run of consecutive columns of one layer's keys: row r (column `first + r`) starts at data + r * stride and is
// (n_head_kv, head_dim) contiguous in the layer's k_type. Borrowed.
struct KeyBlock {
    const uint8_t* data = nullptr;
    int64_t first = 0;
    int64_t n = 0;
    size_t stride = 0;
};

struct RowsRequest {
    const LayerInfo* layer = nullptr;
    const uint8_t* q = nullptr;         // (n_head, head_dim) in layer->q_type
    std::span<const KeyBlock> keys;     // ascending, together covering every visible column
    std::span<const Range> visible;     // ascending, disjoint
    int64_t n_columns = 0;              // width of the output; every visible column is below it
    int32_t position = 0;               // of the query; used where scores depend on it (LayerInfo::by_distance())
    std::span<const int32_t> positions; // of the columns [n_columns]; may be empty unless the layer is by_distance()
    int32_t head_begin = 0;             // query heads [head_begin, head_end)
    int32_t head_end = 0;
    bool batched = false; // Frame::batched: in which order the engine added the products of a score
};

// Computes rows (head_end - head_begin, n_columns) float32 into `out`; columns that are not visible become exactly 0.
// Scores are accumulated in float32, the sum of exponentials in float64, as the engine does. A query that sees
// nothing yields a row of zeros. `lse`, when not empty, receives the natural logarithm of each row's denominator: of the
// sink alone, or -inf, where nothing is seen. A NaN among the visible scores, +inf, or nothing but -inf, makes all
// visible weights of the row NaN, as in the engine; masked columns stay 0.
// Q is in the type that the engine multiplies K with (ggml's vec_dot_type: f16 with f16, q8_0 with q8_0, ...), or in
// f32 beside keys in f16 or bf16.
// Errors: invalid_argument (ranges outside the columns, keys missing), unsupported (a type without a dot product, or Q
// in a type that K is not multiplied with). On an error nothing is written.
Result<void> attention_rows(const RowsRequest& request, std::span<float> out, std::span<float> lse = {});

// The rows of several requests, such as all layers of a token, computed on up to `n_threads` threads, the calling one
// among them: the same numbers as one attention_rows a request. outs[i], and lses[i] unless `lses` is empty, belong to
// requests[i]; they must not overlap. All requests are checked before anything is written; on an error (whose message
// names the request) nothing is.
Result<void> attention_rows_parallel(std::span<const RowsRequest> requests, std::span<const std::span<float>> outs,
                                     int32_t n_threads, std::span<const std::span<float>> lses = {});

// A query of one token, for rows of many tokens at once.
struct TokenQuery {
    const uint8_t* q = nullptr;          // (n_head, head_dim) in layer->q_type
    std::span<const Range> visible = {}; // ascending, disjoint
    int32_t position = 0;                // used where the layer is by_distance()
};

struct BlockRowsRequest {
    const LayerInfo* layer = nullptr;
    std::span<const TokenQuery> tokens = {};
    std::span<const KeyBlock> keys = {}; // as in RowsRequest: together covering every column that a token sees
    int64_t n_columns = 0;
    std::span<const int32_t> positions = {}; // as in RowsRequest
    int32_t head_begin = 0;                  // query heads [head_begin, head_end)
    int32_t head_end = 0;
    bool batched = false; // of all tokens
    // Bit for bit what attention_rows gives. Otherwise products are added in whichever order is fastest: near the rate at which the
    // machine multiplies matrices, and a weight differs by some units in the last place of its score.
    bool exact = false;
    int32_t n_threads = 1;
};

// Rows (head_end - head_begin, tokens, n_columns) float32 of many tokens, each key read once for a block of them. What is not visible
// becomes exactly 0, as in attention_rows. Memory beside `out`: the keys once more, and some megabytes a thread.
// Errors: as attention_rows; the message names the token; io when there is no memory, and then `out` holds anything.
Result<void> attention_rows_block(const BlockRowsRequest& request, std::span<float> out);

// Which kernels were chosen at run time, those that add as the llama.cpp in use does: "avx512", "avx2", "scalar".
const char* attention_simd_name();

// ---- reductions over rows -------------------------------------------------------------------------------------
// `rows` is (n_rows, n_columns) float32, row-major. Of `out` the first n_columns are written. A NaN shows in the mean,
// the maximum and the entropy; among the largest entries it comes last. No rows: zeros.

void reduce_mean(std::span<const float> rows, int64_t n_columns, std::span<float> out); // out[j] = mean over rows
void reduce_max(std::span<const float> rows, int64_t n_columns, std::span<float> out);  // out[j] = max over rows
// Shannon entropy in nats of one row, -sum p ln p; with learned sinks of the part that is there.
double row_entropy(std::span<const float> row);
// The share of the first position, p[0]: the "attention sink" of Xiao et al. 2023 (arXiv 2309.17453).
double row_first_share(std::span<const float> row);

struct ColumnWeight {
    int64_t column = 0;
    float weight = 0;
};
// The k largest entries, largest first; equal weights in column order.
std::vector<ColumnWeight> row_top_k(std::span<const float> row, size_t k);

} // namespace attnscope
