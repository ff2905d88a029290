#include "capture/device/fetch.h"

#include <cstddef>

namespace attnscope::capture {

namespace {

// A piece of a buffer as a tensor, for functions that take tensors.
class Piece {
public:
    Piece(ggml_backend_buffer_t memory, const uint8_t* at, size_t bytes) {
        const GgmlTensorLayout& layout = ggml().tensor;
        room_.resize((layout.size + sizeof(uint64_t) - 1) / sizeof(uint64_t)); // another version's may be larger
        set_tensor_field(get(), layout.type, static_cast<int32_t>(GGML_TYPE_I8));
        for (size_t i = 0; i < 4; ++i) {
            set_tensor_field(get(), layout.ne + i * sizeof(int64_t), i == 0 ? static_cast<int64_t>(bytes) : int64_t{1});
            set_nb(get(), i, i == 0 ? 1 : bytes);
        }
        set_tensor_field(get(), layout.buffer, memory);
        set_tensor_field(get(), layout.data, const_cast<uint8_t*>(at));
    }
    ggml_tensor* get() { return static_cast<ggml_tensor*>(static_cast<void*>(room_.data())); }

private:
    std::vector<uint64_t> room_;
};

} // namespace

Fetch::~Fetch() {
    sending_.engine = nullptr; // a batch that failed: nobody waits for it, and its engine may be gone
    if (prepared_) drain();
}

void Fetch::prepare() {
    if (prepared_) return;
    prepared_ = true;
    const ggml_backend_dev_caps caps = device_caps(device_);
    if (!is_remote(device_)) own_.reset(ggml().backend_dev_init(device_, nullptr));
    asynchronous_ = caps.async && caps.events && (own_ || is_remote(device_));
    if (!asynchronous_) return;
    engine_done_.reset(ggml().backend_event_new(device_));
    may_overwrite_.reset(ggml().backend_event_new(device_));
    for (Slot& s : slots_) s.done.reset(ggml().backend_event_new(device_));
    asynchronous_ = engine_done_ && may_overwrite_ && slots_[0].done && slots_[1].done;
}

bool Fetch::reserve(Slot& slot, size_t bytes) {
    if (slot.size >= bytes) return true;
    drain(); // nobody has waited for what is on its way of a batch that failed
    slot.pinned.reset();
    slot.data = nullptr;
    slot.size = 0;
    if (ggml_backend_buffer_type_t type = ggml().backend_dev_host_buffer_type(device_)) {
        slot.pinned.reset(ggml().backend_buft_alloc_buffer(type, bytes));
        if (!slot.pinned) return false;
        slot.data = static_cast<uint8_t*>(ggml().backend_buffer_get_base(slot.pinned.get()));
    } else {
        slot.pageable.resize(bytes);
        slot.data = slot.pageable.data();
    }
    slot.size = bytes;
    return true;
}

bool Fetch::reserve_staging(Slot& slot, size_t bytes) {
    if (slot.staging && ggml().backend_buffer_get_size(slot.staging.get()) >= bytes) return true;
    drain();
    slot.staging.reset();
    slot.staging.reset(ggml().backend_buft_alloc_buffer(ggml().backend_dev_buffer_type(device_), bytes));
    return slot.staging != nullptr;
}

ggml_tensor* Fetch::stage_of(Slot& slot, const Placement::Block& block) {
    if (!reserve_staging(slot, block.used)) return nullptr;
    slot.staging_ctx.reset(ggml().init({ggml().tensor_overhead(), nullptr, true}));
    ggml_tensor* t = ggml().new_tensor_1d(slot.staging_ctx.get(), GGML_TYPE_I8, static_cast<int64_t>(block.used));
    ggml().backend_tensor_alloc(slot.staging.get(), t, ggml().backend_buffer_get_base(slot.staging.get()));
    return t;
}

bool Fetch::prepare_gather(int index, const Placement::Block& block, const GatherPlan& plan) {
    prepare();
    if (!asynchronous_ || !own_ || plan.bytes == 0) return false;
    Slot& slot = slots_[index];
    slot.gathered = plan.bytes;
    return reserve_staging(slot, Gather::memory_needed(plan)) &&
           slot.gather.build(own_.get(), block, plan, slot.staging.get());
}

const uint8_t* Fetch::staged_block(int slot) const {
    const ggml_tensor* t = slots_[slot].staged;
    return t ? data(t) : nullptr;
}

// Rows of several layers lie at equal distances when the caches were made together: one transfer with a stride then.
void Fetch::get_rows(ggml_backend_t backend, std::span<const Rows> rows, uint8_t* to) {
    const auto address = [](const Rows& r) { return data(r.cache) + r.offset; };
    for (size_t i = 0; i < rows.size();) {
        const Rows& first = rows[i];
        size_t n = 1;
        ptrdiff_t stride = 0;
        for (; i + n < rows.size() && has_strided_transfers(); ++n) {
            const Rows& r = rows[i + n];
            const ptrdiff_t step = address(r) - address(rows[i + n - 1]);
            if (buffer(r.cache) != buffer(first.cache) || r.bytes != first.bytes ||
                r.to != rows[i + n - 1].to + r.bytes)
                break;
            if (step < static_cast<ptrdiff_t>(r.bytes) || (n > 1 && step != stride)) break;
            stride = step;
        }
        const size_t span = size_t(stride) * (n - 1) + first.bytes;
        Piece piece(buffer(first.cache), address(first), span);
        if (n > 1) {
            ggml().backend_tensor_get_2d_async(backend, piece.get(), to + first.to, 0, first.bytes, n, size_t(stride),
                                               first.bytes);
        } else {
            ggml().backend_tensor_get_async(backend, piece.get(), to + first.to, 0, first.bytes);
        }
        i += n;
    }
}

bool Fetch::start(int index, ggml_backend_t engine, const Placement::Block& block, std::span<const Rows> rows,
                  size_t rows_bytes, How how) {
    prepare();
    Slot& slot = slots_[index];
    const size_t used = how == How::gathered ? slot.gathered : block.used;
    slot.rows_at = (used + 255) / 256 * 256;
    if (!reserve(slot, slot.rows_at + rows_bytes)) return false;
    ggml_backend_t stream = own_ ? own_.get() : engine;
    if (!asynchronous_) {
        ggml().backend_synchronize(engine);
    } else if (own_) {
        ggml().backend_event_record(engine_done_.get(), engine);
        ggml().backend_event_wait(stream, engine_done_.get());
    }
    last_slot_ = index;
    slot.staged = nullptr;
    const ggml_tensor* source = block.whole;
    bool block_free = false; // the engine may overwrite the block behind this
    if (how == How::gathered) {
        slot.gather.start(stream);
        source = slot.gather.result();
        block_free = true;
    } else if (how == How::staged && asynchronous_ && own_ && used > 0) {
        slot.staged = stage_of(slot, block);
        if (slot.staged) {
            ggml().backend_tensor_copy_async(stream, stream, block.whole, slot.staged);
            source = slot.staged;
            block_free = true;
        }
    }
    guarding_ = asynchronous_;
    sending_ = {engine, source, used, {rows.begin(), rows.end()}};
    if (block_free) {
        ggml().backend_event_record(may_overwrite_.get(), stream);
        return true;
    }
    send_behind(stream);
    if (asynchronous_)
        ggml().backend_event_record(may_overwrite_.get(), stream);
    else
        ggml().backend_synchronize(stream);
    return true;
}

void Fetch::send_behind(ggml_backend_t stream) {
    Slot& slot = slots_[last_slot_];
    get_rows(stream, sending_.rows, slot.data + slot.rows_at);
    if (sending_.bytes > 0) ggml().backend_tensor_get_async(stream, sending_.source, slot.data, 0, sending_.bytes);
    if (asynchronous_) ggml().backend_event_record(slot.done.get(), stream);
    sending_.engine = nullptr;
}

void Fetch::send() {
    if (!sending_.engine) return;
    ggml().backend_event_record(engine_done_.get(), sending_.engine);
    ggml().backend_event_wait(own_.get(), engine_done_.get());
    send_behind(own_.get());
}

void Fetch::guard(ggml_backend_t engine, bool all) {
    send();
    if (guarding_ && own_) {
        ggml().backend_event_wait(engine, all ? slots_[last_slot_].done.get() : may_overwrite_.get());
    }
    guarding_ = false;
}

void Fetch::wait(int slot) {
    if (slot == last_slot_) send();
    if (asynchronous_) ggml().backend_event_synchronize(slots_[slot].done.get());
}

void Fetch::drain() {
    send();
    if (own_) ggml().backend_synchronize(own_.get());
    for (Slot& s : slots_) {
        if (!own_ && s.done) ggml().backend_event_synchronize(s.done.get());
    }
}

} // namespace attnscope::capture
