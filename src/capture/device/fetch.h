// Takes what a graph left in a device's memory into host memory while the engine goes on.
#pragma once

#include "capture/device/gather.h"
#include "capture/device/placement.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace attnscope::capture {

// The transfers out of one device, on a stream of their own, ordered behind the engine's by events. The engine waits in
// one case only: before a graph that overwrites what we still read (guard()).
//
// A device on another machine (RPC) has one stream, the engine's, and answers requests in order.
class Fetch {
public:
    static constexpr int n_slots = 2; // one arrives while the other is read

    explicit Fetch(ggml_backend_dev_t device) : device_(device) {}
    ~Fetch();
    Fetch(const Fetch&) = delete;
    Fetch& operator=(const Fetch&) = delete;

    ggml_backend_dev_t device() const { return device_; }

    // `bytes` bytes at `offset` of a cache tensor go to `to` in the slot's rows.
    struct Rows {
        const ggml_tensor* cache = nullptr;
        size_t offset = 0, bytes = 0, to = 0;
    };
    // Makes ready what start() does with `gathered`. False: this device cannot, or there is no memory.
    bool prepare_gather(int slot, const Placement::Block& block, const GatherPlan& plan);
    // staged: the whole block is copied on the device first, where others (means) can read it too. gathered: what
    // prepare_gather() was given. The engine waits for that copy on the device, not for the way to the host.
    enum class How { staged, gathered };
    // Brings the block (or what is gathered of it) and the rows into slot `slot`, once `engine` has run what it was
    // given. send() sends on to the host what is on the device by then. False: no memory.
    bool start(int slot, ggml_backend_t engine, const Placement::Block& block, std::span<const Rows> rows,
               size_t rows_bytes, How how);
    // Sends what start() has staged, after everything that the engine was given meanwhile: somebody waits for the
    // logits, and nobody for this. Does nothing when nothing is left.
    void send();
    // Before the engine's next graph. `all`: it will overwrite rows, too, not only the block.
    void guard(ggml_backend_t engine, bool all);
    // Blocks until the slot is filled.
    void wait(int slot);
    // After start() with How::staged: the block's copy on the device, and the event behind which it is there; null without one.
    const uint8_t* staged_block(int slot) const;
    const ggml_tensor* staged(int slot) const { return slots_[slot].staged; }
    ggml_backend_event_t staged_event() const { return may_overwrite_.get(); }
    const uint8_t* block(int slot) const { return slots_[slot].data; }
    const uint8_t* rows(int slot) const { return slots_[slot].data + slots_[slot].rows_at; }
    // Blocks until the device is done with everything asked for.
    void drain();

private:
    struct Slot {
        BufferPtr pinned;
        std::vector<uint8_t> pageable; // where the device offers no pinned memory
        uint8_t* data = nullptr;
        size_t size = 0, rows_at = 0;
        EventPtr done;
        BufferPtr staging; // on the device
        ContextPtr staging_ctx;
        ggml_tensor* staged = nullptr;
        Gather gather;
        size_t gathered = 0; // bytes
    };

    void prepare();
    bool reserve(Slot& slot, size_t bytes);
    bool reserve_staging(Slot& slot, size_t bytes);
    ggml_tensor* stage_of(Slot& slot, const Placement::Block& block);
    void get_rows(ggml_backend_t backend, std::span<const Rows> rows, uint8_t* to);
    void send_behind(ggml_backend_t stream);

    ggml_backend_dev_t device_ = nullptr;
    bool prepared_ = false;
    bool asynchronous_ = false;
    BackendPtr own_; // null: the engine's stream is used
    EventPtr engine_done_, may_overwrite_;
    struct Sending {                     // what start() began
        ggml_backend_t engine = nullptr; // null: nothing
        const ggml_tensor* source = nullptr;
        size_t bytes = 0;
        std::vector<Rows> rows;
    } sending_;
    bool guarding_ = false; // the engine's next graph must wait
    int last_slot_ = 0;
    Slot slots_[n_slots];
};

} // namespace attnscope::capture
