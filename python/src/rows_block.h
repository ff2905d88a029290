// Rows of many tokens at once: each layer's keys are read once for all of them, and all cores compute.
#pragma once

#include "recording_pool.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace attnscope::python {

// Memory of an array, whoever allocated it.
using FloatArray = std::shared_ptr<float>;

struct RowsBlock {
    int64_t n_columns = 0; // of the selected token that sees most
    FloatArray weights;    // (tokens, layers, heads, n_columns)
};

// The numbers that Recording::rows gives for each token, 0 beyond the columns that a token sees. `tokens`, `layers` and `heads`
// are in the recording's bounds. `between` is called now and then, on the calling thread: it may throw to end it all.
// Throws Failure.
RowsBlock rows_block(RecordingPool& pool, const std::vector<int64_t>& tokens, const std::vector<int32_t>& layers,
                     const std::vector<int32_t>& heads, const std::function<void()>& between);

// Runs work(0) ... work(n - 1) on up to n_threads() threads, the calling one among them. What one of them throws is thrown
// again here, after all have ended.
void in_parallel(size_t n, const std::function<void(size_t)>& work);

} // namespace attnscope::python
