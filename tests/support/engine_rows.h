// The engine's own kq_soft_max, read through cb_eval in a context of its own: the truth that rows are
// compared with.
#pragma once

#include <attnscope/session.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace attnscope::test {

// What the engine computed for one token: by layer number, (n_head, n_columns) float32. Cells were put in the
// order of positions with the index tensors of the graph itself; what lay in cells that hold no position is
// in `padding`.
struct EngineToken {
    struct Layer {
        int64_t n_head = 0;
        std::vector<float> weights;
        float padding = 0; // largest weight in a cell without a position
    };
    int64_t n_columns = 0; // all tokens decoded so far, those of its own batch included
    std::map<int, Layer> layers;
};

using EngineCallback = std::function<void(size_t index, const EngineToken&)>;

// Decodes `tokens` without flash attention, the first n_prompt in batches of options.n_batch, the others one
// by one, and hands over the tokens for which `want` holds. Returns an error text, empty if all went well.
std::string engine_rows(const SessionOptions& options, const std::vector<int32_t>& tokens, size_t n_prompt,
                        const std::function<bool(size_t)>& want, const EngineCallback& callback);

struct RowsDifference {
    int64_t tokens = 0, rows = 0; // compared
    double max_difference = 0;    // |ours - engine| in any column
    double max_padding = 0;       // largest weight of the engine outside the positions
    double max_sum_error = 0;     // of rows of layers without learned sinks
    int64_t not_ok = 0;           // frames whose verdict is not ok
    double max_witness = 0;       // largest error / tolerance of a witness
    int64_t witnessed = 0;        // distinct (layer, head) pairs
    int64_t pairs = 0;            // how many there are
    int64_t max_column = 0;
    int64_t means = 0;   // frames with a mean computed on a device
    double max_mean = 0; // |that mean - the mean of our rows| in any column
    std::string error;
};

// Captures a run and compares every row of the wanted tokens with the engine. With flash attention on only
// the witnesses are looked at.
RowsDifference compare_with_engine(const SessionOptions& options, const std::vector<int32_t>& prompt, int n_predict,
                                   const std::function<bool(size_t)>& want);

// `n` token ids of running text in the model's vocabulary: a passage, repeated.
std::vector<int32_t> prompt_tokens(Session& session, size_t n);

} // namespace attnscope::test
