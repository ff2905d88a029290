// A capture made the wrong way, on purpose: what `attnscope reproduce` shows.
//
// It remembers pointers to the tensors named kq_soft_max while the graph is being built, and reads them after the graph
// has run. Both steps are wrong: the graph's allocator gives all these tensors one address (aliasing: whoever reads
// afterwards finds the last layer's rows in every one of them), and without waiting for the device the read races
// with the computation. Nothing else in attnscope uses this.
#pragma once

#include <attnscope/error.h>
#include <attnscope/session.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace attnscope {

struct PointerToken {
    int32_t token = -1;
    std::string text;
    int32_t n_layer = 0, n_head = 0;
    int64_t n_context = 0;
    std::span<const float> values; // (n_layer, n_head, n_context), borrowed
};

struct PointerCaptureOptions {
    SessionOptions session; // flash attention is switched off: with it there is no kq_soft_max
    std::vector<int32_t> prompt;
    int32_t n_predict = 387;
    SamplingOptions sampling;
    bool wait = true; // synchronise with the device before reading
    const std::atomic<bool>* stop = nullptr;
};

struct PointerCaptureResult {
    std::vector<int32_t> generated;
    uint32_t seed = 0; // the one in use, also when a random one was asked for
    double seconds = 0;
    int32_t n_tensors = 0;   // kq_soft_max tensors of a token
    int32_t n_addresses = 0; // distinct addresses they had, the most in any token
    bool on_gpu = false;     // some kq_soft_max did not lie in host memory
};

// Hands over one tensor a generated token, as the wrong way reads it.
Result<PointerCaptureResult> capture_pointers(const PointerCaptureOptions& options,
                                              const std::function<Result<void>(const PointerToken&)>& sink);

} // namespace attnscope
