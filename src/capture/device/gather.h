// Picks, on the device, what a capture needs of a batch of many tokens, so that the rest never goes to the host.
//
// The queries and outputs of a prompt's batch are some hundred megabytes of float32. A capture needs the queries whose
// rows are kept, in half precision, as the engine multiplies them; and of each token the one head that is proven. A
// graph of copies, behind the engine's own, picks and converts that; any back end that can copy can run it.
#pragma once

#include "capture/device/placement.h"

#include <attnscope/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace attnscope::capture {

// `from`: bytes into the block; `to`: bytes into what arrives.
struct GatherPlan {
    struct Whole {
        size_t from = 0, to = 0, bytes = 0;
    };
    // Rows of `width` floats out of `n_rows`, one behind the other.
    struct Picked {
        size_t from = 0, to = 0;
        int64_t width = 0, n_rows = 0;
        std::vector<int32_t> rows;
    };
    // f32 (head_dim, n_head, n_tokens) with strides, into rows of `type` (no block type), heads of a token one behind the other.
    struct Heads {
        size_t from = 0, token_stride = 0, head_stride = 0;
        size_t to = 0, to_token = 0;
        int64_t head_dim = 0, n_head = 0, n_tokens = 0;
        DType type = DType::f16;
    };
    std::vector<Whole> whole;
    std::vector<Picked> picked;
    std::vector<Heads> heads;
    size_t bytes = 0;

    // Room for `n` bytes behind what is planned so far; returns where.
    size_t room(size_t n);
};

// One plan on its way. The graph and what it uploads live until the next build().
class Gather {
public:
    // Bytes of device memory that a plan takes.
    static size_t memory_needed(const GatherPlan& plan);
    // False: the back end cannot do it. Nothing has run then.
    bool build(ggml_backend_t backend, const Placement::Block& block, const GatherPlan& plan,
               ggml_backend_buffer_t staging);
    // Runs it; the result is the first plan.bytes of the staging memory.
    void start(ggml_backend_t backend);
    const ggml_tensor* result() const { return result_; }

private:
    ContextPtr ctx_;
    ggml_cgraph* graph_ = nullptr;
    ggml_tensor* rows_ = nullptr;   // i32: the numbers of all picked rows
    ggml_tensor* result_ = nullptr; // i8 (plan.bytes)
    std::vector<int32_t> row_numbers_;
};

} // namespace attnscope::capture
