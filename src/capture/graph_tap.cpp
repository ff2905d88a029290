#include "capture/graph_plan.h"
#include "base/parallel_for.h"

#include <ggml-backend.h>

#include <algorithm>
#include <thread>

namespace attnscope::capture {

GraphTap::GraphTap(CollectorOptions options, FramesCallback frames, int32_t mean_threads)
    : Tap(std::move(options), std::move(frames)), plan_(std::make_unique<Plan>()) {
    if (mean_threads > 0) plan_->host_mean = std::make_unique<HostMean>(mean_threads);
}
GraphTap::~GraphTap() = default;

namespace {

// Tokens whose proofs may be under way: at long contexts a proof takes longer than a token.
constexpr size_t most_proving = 6;
// Batches of many tokens hold many queries: beside the one that is taken as many may wait for their proofs as there are devices
// behind the first one, which work on earlier batches than it does.
size_t most_batches_proving(size_t n_devices) { return n_devices > 1 ? 1 : 0; }
// On devices so many neighbours of a batch are proven with one head: its keys and values are read from memory once for all.
constexpr int32_t tokens_a_head = 16;

ggml_backend_t backend_of(ggml_backend_sched_t sched, ggml_backend_dev_t device) {
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        if (ggml_backend_get_device(backend) == device) return backend;
    }
    return nullptr;
}

} // namespace

void GraphTap::before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    Plan& plan = *plan_;
    plan.graph = graph;
    plan.found = find_attention(graph);
    if (plan.host_mean) plan.host_mean->forget();
    if (plan.found.nodes.empty()) return;
    plan.placement.place(plan.found, [&] {
        // Blocks are about to be given back: nobody may still write to them or read from them.
        ggml_backend_sched_synchronize(sched);
        complete();
        settle();
        plan.drain();
    });
    if (plan.host_mean) plan.host_mean->add_to(graph, plan.found);
    plan.list_inputs();
}

void GraphTap::before_compute(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    Plan& plan = *plan_;
    const bool ours = plan.graph == graph && !plan.found.nodes.empty();
    // Only what cannot wait: the device stands still while we look.
    plan.inputs.clear();
    if (plan.host_mean) plan.host_mean->stop();
    if (ours) {
        if (!plan.inputs_keep) plan.inputs_keep = inputs_stay(graph);
        for (const ggml_tensor* cells : plan.written) plan.inputs.keep(cells);
        if (!*plan.inputs_keep) plan.keep_seen();
        if (plan.host_mean && wants_mean(collector.next_index())) plan.host_mean->start(plan.found, plan.inputs, collector.geometry(), mean_layers, mean_heads);
    }
    // A graph of another kind may move what the caches hold.
    const bool all = !ours || plan.overwrites_arriving();
    if (!ours || plan.overwrites_seen()) {
        settle();
        if (plan.arriving) plan.mean.wait(plan.arriving->slot);
    }
    for (auto& fetch : plan.fetches) {
        if (ggml_backend_t engine = backend_of(sched, fetch->device())) fetch->guard(engine, all);
    }
    plan.seen = ours;
}

void GraphTap::after_compute(ggml_backend_sched_t sched, ggml_cgraph* graph, bool succeeded) {
    Plan& plan = *plan_;
    if (plan.graph != graph || !plan.seen) return;
    plan.seen = false;
    if (!succeeded) {
        flush();
        return;
    }
    settle();
    if (*plan.inputs_keep) plan.keep_seen();
    // With several positions a token (M-RoPE) the first n_query are the temporal ones.
    const uint8_t* positions = plan.found.positions ? plan.inputs.data(plan.found.positions) : nullptr;
    const AttentionNode& first = plan.found.nodes.front();
    const bool device = first.k_cache && !is_host(first.k_cache);
    std::unique_ptr<Batch> batch =
        collector.begin(plan.found.n_query, reinterpret_cast<const int32_t*>(positions), device ? tokens_a_head : 1);
    Batch* unfinished = plan.arriving ? plan.arriving->batch.get() : nullptr;
    for (const AttentionNode& n : plan.found.nodes) collector.see(*batch, n, plan.inputs, unfinished);
    collector.check(*batch);
    auto arriving = std::make_unique<Arriving>();
    std::vector<const ggml_tensor*> caches;
    bool some_on_host = false, some_on_device = false;
    for (size_t l = 0; l < plan.found.nodes.size(); ++l) {
        const AttentionNode& n = plan.found.nodes[l];
        arriving->sources.push_back(source_of(n, batch->layers[l], plan.placement, plan.mirrors));
        caches.push_back(n.k_cache);
        const LayerSource& s = arriving->sources.back();
        if (!s.captured) continue;
        (s.on_device ? some_on_device : some_on_host) = true;
        if (!s.mirrored) batch->error = "there is no host memory to mirror the cache of a device";
    }
    collector.choose_proofs(*batch, 0, arriving->sources.size());
    int64_t first_kept = 0;
    while (first_kept < batch->n_query && collector.keep_q && !collector.keep_q(batch->first_index + first_kept)) ++first_kept;
    arriving->first_kept = batch->first_index + first_kept;
    for (const Batch::Group& g : batch->groups) arriving->written.insert(arriving->written.end(), g.written.begin(), g.written.end());
    std::sort(arriving->written.begin(), arriving->written.end());
    arriving->batch = std::move(batch);
    arriving->slot = plan.next_slot;
    arriving->blocks.resize(plan.placement.blocks().size());
    plan.next_slot = (plan.next_slot + 1) % Fetch::n_slots;
    bool fetched = true;
    for (size_t b = 0; b < plan.placement.blocks().size(); ++b) {
        Placement::Block& block = plan.placement.blocks()[b];
        if (block.used == 0 || block.on_host()) {
            some_on_host = some_on_host || block.used > 0;
            if (block.on_host()) arriving->blocks[b].host = static_cast<const uint8_t*>(ggml_backend_buffer_get_base(block.memory.get()));
            continue;
        }
        ggml_backend_t engine = backend_of(sched, block.device);
        if (!plan.fetch_of(block.device)) plan.fetches.push_back(std::make_unique<Fetch>(block.device));
        std::vector<Fetch::Rows> rows;
        const size_t rows_bytes = rows_to_fetch(arriving->sources, caches, block.device, *arriving->batch, rows);
        Fetch& fetch = *plan.fetch_of(block.device);
        arriving->blocks[b].fetch = &fetch;
        Fetch::How how = Fetch::How::staged;
        if (arriving->batch->n_query > 1) {
            auto gather = std::make_unique<BlockGather>();
            if (gather->make(b, arriving->sources, *arriving->batch, first_kept) &&
                fetch.prepare_gather(arriving->slot, block, gather->plan())) {
                gather->apply(arriving->sources);
                arriving->blocks[b].gather = std::move(gather);
                how = Fetch::How::gathered;
            }
        }
        fetched = fetched && engine && fetch.start(arriving->slot, engine, block, rows, rows_bytes, how);
    }
    if (fetched && wants_mean(arriving->batch->first_index)) {
        plan.mean.select(mean_layers, mean_heads);
        plan.mean.start(arriving->slot, *arriving->batch, arriving->sources, plan.fetches);
        arriving->with_mean = plan.mean.busy(arriving->slot);
    }
    complete(); // the batch before this one, while the devices work on this one
    if (!fetched) {
        error_ = "there is no host memory for the transfer from a device (use a smaller -ub)";
        collector.drop(*arriving->batch);
        return;
    }
    plan.arriving = std::move(arriving);
    // What lies in host memory is the next graph's: it cannot wait.
    if (some_on_host || !some_on_device) {
        complete();
        settle();
    }
}

void GraphTap::end_decode() {
    for (auto& fetch : plan_->fetches) fetch->send();
}

void GraphTap::flush() {
    complete();
    settle();
    deliver_proven(0);
}

// Delivers what is proven, in order, and waits until at most `waiting` batches are not.
void GraphTap::deliver_proven(size_t waiting) {
    std::deque<std::unique_ptr<Batch>>& proving = plan_->proving;
    while (!proving.empty() && (proving.size() > waiting || Collector::proven(*proving.front()))) {
        Collector::wait_until_proven(*proving.front());
        deliver(*proving.front());
        proving.pop_front();
    }
}

// What was being taken is taken: nobody but proofs works beside this thread.
void GraphTap::settle() {
    if (!plan_->taking) return;
    const std::unique_ptr<Arriving> taken = std::move(plan_->taking);
    plan_->taking_done.get();
    plan_->proving.push_back(std::move(taken->batch));
}

// Has the batch whose graph has run taken: beside this thread when it comes from devices, whose host would have to keep what the
// engine's next choice of a token works with out of a core's caches; at once when the next graph changes what it is made of.
void GraphTap::complete() {
    settle();
    Plan& plan = *plan_;
    if (!plan.arriving) return;
    std::unique_ptr<Arriving> arriving = std::move(plan.arriving);
    Batch& batch = *arriving->batch;
    if (!batch.error.empty()) {
        deliver_proven(0);
        deliver(batch);
        return;
    }
    // Proofs read the mirrors: cells that they may look at are not taken from them.
    if (batch.overwrites) deliver_proven(0);
    const auto on_host = [](const LayerSource& s) { return s.captured && !s.on_device; };
    if (std::any_of(arriving->sources.begin(), arriving->sources.end(), on_host)) {
        take(*arriving);
        if (plan.host_mean) plan.host_mean->finish(batch, collector);
        collector.prove(batch); // with the engine's own K and V, which the next graph changes
        deliver_proven(0);
        deliver(batch);
        return;
    }
    // The thread that decodes a prompt must not wait for a core; where proofs do not keep up it had better share than wait.
    const bool many = batch.n_query > 1;
    const bool keeps_up = plan.proving.empty() || Collector::proven(*plan.proving.back());
    const size_t n_provers = many && keeps_up ? base::helping_threads() : std::thread::hardware_concurrency();
    const bool with_facts = collector.geometry_known();
    plan.taking = std::move(arriving);
    plan.taking_done = plan.taker.call([this, taking = plan.taking.get(), n_provers, with_facts] {
        take(*taking);
        if (with_facts) collector.find_facts(*taking->batch);
        collector.start_proving(*taking->batch, static_cast<int32_t>(n_provers), plan_->provers);
    });
    deliver_proven(many ? most_batches_proving(plan.fetches.size()) : most_proving);
}

} // namespace attnscope::capture
