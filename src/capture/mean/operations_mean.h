// The mean of one token's rows in ggml's own operations, for back ends and caches that no kernel of ours serves: any
// device of ggml that has MUL_MAT, SOFT_MAX and some small ones.
//
// Runs on a back-end instance of its own beside the engine's. Reads the K cache once and the scores several times
// (cost: docs/performance.md).
#pragma once

#include "capture/graph/ggml_abi.h"
#include "capture/mean/mean_on_device.h"
#include "capture/mean/mean_shape.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace attnscope::capture {

class OperationsMean : public MeanOnDevice {
public:
    // One layer of the token. Tensors and buffers are borrowed until wait().
    struct Layer : MeanShape {
        ggml_tensor* k_cache = nullptr; // owner of the keys' memory
        size_t k_offset = 0;            // bytes
        int64_t n_cells = 0;
        ggml_backend_buffer_t q_buffer = nullptr;
        size_t q_offset = 0; // bytes from the buffer's base
    };

    // Null where the device has no back end of its own.
    static std::unique_ptr<OperationsMean> create(ggml_backend_dev_t device);
    ~OperationsMean() override;

    Started start(int slot, const StagedToken& token) override;
    const Sums& wait(int slot) override;

    // Starts behind `ready` (null: what it reads is there). `visible`: the cells that each group of layers sees. `weights`: one
    // a row, in the order of the layers and their heads. False: the device lacks an operation, or memory.
    bool start(int slot, ggml_backend_event_t ready, const std::vector<Layer>& layers,
               const std::vector<std::span<const Range>>& visible, const std::vector<float>& weights);

private:
    struct Slot {
        ContextPtr ctx;
        AllocatorPtr memory;
        std::vector<std::vector<float>> masks, results; // one a group
        std::vector<float> weights;
        EventPtr done; // null: no events
    };

    ggml_backend_dev_t device_ = nullptr;
    BackendPtr backend_;
    Slot slots_[n_slots];
    Sums sums_;
};

} // namespace attnscope::capture
