// What a batch left in blocks and caches becomes frames' data and, for what lies on devices, the mirrors' newest cells.
#include "capture/graph_plan.h"
#include "base/parallel_for.h"

namespace attnscope::capture {

namespace {
// From so many on, what is done for each of a batch's tokens is done on several threads.
constexpr int64_t many_tokens = 64;
} // namespace

void GraphTap::take(Arriving& arriving) {
    Plan& plan = *plan_;
    Batch& batch = *arriving.batch;
    std::vector<const uint8_t*> bases;
    for (const Arriving::From& from : arriving.blocks) {
        const uint8_t* base = from.host;
        if (from.fetch) {
            from.fetch->wait(arriving.slot);
            base = from.fetch->block(arriving.slot);
        }
        if (from.gather) from.gather->arrived(base, batch);
        bases.push_back(base);
    }
    const auto base = [&](size_t block) { return bases[block]; };
    std::vector<const LayerSource*> new_on_device;
    for (const LayerSource& s : arriving.sources) {
        if (!s.captured) continue;
        if (s.on_device) new_on_device.push_back(&s);
    }
    const auto store = [&](size_t i) {
        const Fetch* fetch = plan.fetch_of(new_on_device[i]->device);
        store_new(*new_on_device[i], batch, base, fetch ? fetch->rows(arriving.slot) : nullptr);
    };
    if (batch.n_query >= many_tokens) base::parallel_for(new_on_device.size(), store);
    else for (size_t i = 0; i < new_on_device.size(); ++i) store(i);
    std::vector<HostAttention> data;
    for (const LayerSource& s : arriving.sources) {
        HostAttention a = s.host;
        if (s.captured) {
            a.q = bases[s.q.block] + s.q.offset;
            a.q_token = s.q.token_stride, a.q_head = s.q.head_stride;
            if (s.has_q_kept) {
                a.q_kept = bases[s.q_kept.block] + s.q_kept.offset;
                a.q_kept_token = s.q_kept.token_stride;
                a.first_kept = arriving.first_kept;
            }
            a.out = bases[s.out.block] + s.out.offset;
            a.out_token = s.out.token_stride, a.out_head = s.out.head_stride;
            if (s.on_device) {
                const Mirror& v = s.v_mirror ? *s.v_mirror : *s.k_mirror;
                a.k = s.k_mirror->data();
                a.k_cell = s.k_mirror->row_bytes();
                a.v = v.data() + s.v_offset;
                a.v_cell = v.row_bytes();
                a.v_head = s.v_head, a.v_dim = s.v_dim;
            }
        }
        data.push_back(a);
    }
    collector.take(batch, std::move(data));
    plan.mean.finish(arriving.slot, batch, collector);
}

} // namespace attnscope::capture
