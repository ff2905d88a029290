#include "capture/device/placement.h"

#include <algorithm>
#include <cstring>
#include <deque>

namespace attnscope::capture {

namespace {

ggml_backend_buffer_t buffer_of(const ggml_tensor* t) {
    return buffer(view_src(t) ? view_src(t) : t);
}

ggml_backend_dev_t cpu() {
    return ggml().backend_dev_by_type(static_cast<enum ggml_backend_dev_type>(ggml().device_type_cpu));
}

ggml_backend_dev_t device_of(ggml_backend_buffer_t memory) {
    ggml_backend_dev_t device = ggml().backend_buft_get_device(ggml().backend_buffer_get_type(memory));
    return device ? device : cpu();
}

ggml_backend_buffer_type_t memory_of(ggml_backend_dev_t device) {
    return ggml().backend_dev_buffer_type(device);
}

bool on_cpu(ggml_backend_dev_t device) {
    return static_cast<int32_t>(ggml().backend_dev_type(device)) == ggml().device_type_cpu;
}

} // namespace

bool is_remote(ggml_backend_dev_t device) {
    if (!ggml().has_devices) return false;
    ggml_backend_reg_t reg = ggml().backend_dev_backend_reg(device);
    return reg && std::strncmp(ggml().backend_reg_name(reg), "RPC", 3) == 0;
}

ggml_backend_dev_t device_of_weights(const ggml_tensor* tensor) {
    std::deque<const ggml_tensor*> next{owner(const_cast<ggml_tensor*>(tensor))};
    for (int seen = 0; !next.empty() && seen < 32; ++seen) {
        const ggml_tensor* t = next.front();
        next.pop_front();
        for (size_t i = 0; i < n_src(); ++i) {
            const ggml_tensor* from = src(t, i);
            if (!from || from == t) continue; // a cast names itself
            // A norm's or a rotation's few numbers say less than a matrix; they lie beside it.
            ggml_backend_buffer_t memory = buffer_of(from);
            if (op(t) == Op::mul_mat && memory &&
                static_cast<int32_t>(ggml().backend_buffer_get_usage(memory)) == ggml().usage_weights) {
                return device_of(memory);
            }
            if (op(from) != Op::none) next.push_back(from);
        }
    }
    return nullptr;
}

void Placement::want(ggml_tensor* tensor, ggml_backend_dev_t device) {
    ggml_tensor* t = owner(tensor);
    if (places_.count(t)) return;
    // The scheduler aborts when it finds a result in memory whose device cannot compute it.
    if (!ggml().backend_dev_supports_op(device, t)) device = cpu();
    size_t b = 0;
    while (b < blocks_.size() && blocks_[b].device != device) ++b;
    if (b == blocks_.size()) {
        blocks_.emplace_back();
        blocks_.back().device = device;
    }
    Block& block = blocks_[b];
    ggml_backend_buffer_type_t memory = memory_of(device);
    const size_t align = std::max<size_t>(ggml().backend_buft_get_alignment(memory), 1);
    const size_t size = ggml().backend_buft_get_alloc_size(memory, t);
    places_[t] = {b, block.used};
    block.used += (size + align - 1) / align * align;
    owners_.push_back(t);
}

void Placement::choose_without_cache(AttentionNode& n) {
    ggml_backend_dev_t home = device_of_weights(n.q);
    if (!home) home = cpu();
    if (!on_cpu(home) && !ggml().has_devices) {
        n.refusal = "it is computed on a device, which is not read in this program (attnscope attach --devices tries)";
        return;
    }
    for (ggml_tensor* t : {n.q, n.k, n.v, n.out}) {
        if (buffer(owner(t)) || op(owner(t)) == Op::none)
            n.refusal = "its queries, keys and values do not lie in memory as expected";
    }
    if (mask_is_computed(n)) n.refusal = "its mask is computed by a graph without a cache";
    if (!n.refusal.empty()) return;
    for (ggml_tensor* t : {n.q, n.k, n.v}) {
        ggml_backend_dev_t device = device_of_weights(t);
        want(t, device ? device : home);
    }
    want(n.out, home);
}

namespace {
// Is every query as far behind the one before it, also where that is of another stream of the cache?
bool queries_lie_evenly(const AttentionNode& n) {
    return n.n_stream == 1 || nb(n.q, 3) == size_t(ne(n.q, 1)) * nb(n.q, 1);
}
} // namespace

void Placement::choose(GraphAttention& found) {
    places_.clear();
    owners_.clear();
    for (Block& b : blocks_) b.used = 0;
    for (AttentionNode& n : found.nodes) {
        if (!n.refusal.empty()) continue;
        if (n.graph_keys) {
            choose_without_cache(n);
            continue;
        }
        ggml_backend_dev_t cache = device_of(buffer(n.k_cache));
        ggml_backend_dev_t weights = device_of_weights(n.q);
        if (!on_cpu(cache) && !ggml().has_devices) {
            n.refusal =
                "its keys lie on a device, which is not read in this program (attnscope attach --devices tries)";
            continue;
        }
        if (!on_cpu(cache) && !queries_lie_evenly(n)) {
            n.refusal = streams_on_device;
            continue;
        }
        const bool v_in_k = owner(n.v) == n.k_cache;
        if (mask_is_computed(n) && (!on_cpu(cache) || buffer(owner(n.mask)))) {
            n.refusal = "its mask is computed on a device (sparse attention; use -ngl 0)";
            continue;
        }
        ggml_tensor* wanted[] = {n.q, n.out, on_cpu(cache) || v_in_k || !stores_keys(n) ? nullptr : n.v_new,
                                 is_remote(cache) ? n.k_new : nullptr};
        for (ggml_tensor* t : wanted) {
            if (t && (type(t) != GGML_TYPE_F32 || buffer(owner(t)) || op(owner(t)) == Op::none)) {
                n.refusal = "its queries or its output do not lie in memory as expected";
            }
        }
        if (!on_cpu(cache) &&
            ((!v_in_k && !n.v_new && stores_keys(n)) || (is_remote(cache) && !n.k_new && stores_keys(n)))) {
            n.refusal = "what is stored in its cache was not found in the graph";
        }
        if (!n.refusal.empty()) continue;
        want(n.q, weights ? weights : cache);
        want(n.out, cache);
        if (mask_is_computed(n)) want(n.mask, cache);
        for (ggml_tensor* t : {wanted[2], wanted[3]}) {
            if (!t) continue;
            ggml_backend_dev_t home = device_of_weights(t);
            want(t, home ? home : cache);
        }
    }
}

void Placement::assign(GraphAttention& found) {
    for (Block& b : blocks_) {
        if (b.used == 0) continue;
        if (!b.memory || ggml().backend_buffer_get_size(b.memory.get()) < b.used) {
            b.memory.reset();
            b.memory.reset(ggml().backend_buft_alloc_buffer(memory_of(b.device), b.used));
            if (!b.memory) {
                for (AttentionNode& n : found.nodes) {
                    if (n.refusal.empty()) n.refusal = "no memory for its queries (use a smaller -ub)";
                }
                places_.clear();
                for (Block& none : blocks_) none.used = 0; // nothing of this graph lies in them
                return;
            }
        }
        if (b.on_host()) continue; // nothing is transferred
        b.ctx.reset(ggml().init({ggml().tensor_overhead(), nullptr, true}));
        b.whole = ggml().new_tensor_1d(b.ctx.get(), GGML_TYPE_I8, static_cast<int64_t>(b.used));
        ggml().backend_tensor_alloc(b.memory.get(), b.whole, ggml().backend_buffer_get_base(b.memory.get()));
    }
    for (ggml_tensor* t : owners_) {
        const Place& place = places_[t];
        ggml_backend_buffer_t memory = blocks_[place.block].memory.get();
        ggml().backend_tensor_alloc(memory, t,
                                    static_cast<uint8_t*>(ggml().backend_buffer_get_base(memory)) + place.offset);
        // Back ends fuse operations and then skip results that nobody else reads: somebody does.
        ggml().set_output(t);
    }
}

} // namespace attnscope::capture
