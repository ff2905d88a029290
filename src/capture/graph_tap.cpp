#include "base/parallel_for.h"
#include "capture/graph_state.h"

#include <algorithm>

namespace attnscope::capture {

GraphTap::GraphTap(CollectorOptions options, BatchCallback deliver, int32_t mean_threads)
    : Tap(std::move(options), std::move(deliver)), state_(std::make_unique<State>()) {
    if (mean_threads > 0) state_->host_mean = std::make_unique<HostMean>(mean_threads);
}
GraphTap::~GraphTap() = default;

namespace {

// Tokens whose proofs may be under way: at long contexts a proof takes longer than a token.
constexpr size_t most_proving = 6;
// A batch of many tokens holds many queries. Beside the batch that is being taken, as many may wait for their proofs as
// there are devices behind the first, which are working on earlier batches.
size_t most_batches_proving(size_t n_devices) {
    return n_devices > 1 ? 1 : 0;
}
// On devices so many neighbours of a batch are proven with one head: its keys and values are read from memory once for all.
constexpr int32_t tokens_a_head = 16;

// Of so many tokens a device's block comes whole: one copy on the device, and a way to the host that nobody waits for. To pick out
// of it takes four kernels a layer, which the engine's next graph waits for: longer than that, until there are many tokens.
constexpr int64_t few_tokens = 8;

} // namespace

ggml_backend_t backend_of(ggml_backend_sched_t sched, ggml_backend_dev_t device) {
    for (int i = 0; i < ggml().backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml().backend_sched_get_backend(sched, i);
        if (ggml().backend_get_device(backend) == device) return backend;
    }
    return nullptr;
}

void GraphTap::before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    State& state = *state_;
    reached_ = true;
    state.graph = graph;
    state.found = find_attention(graph);
    state.described.reset();
    if (state.host_mean) state.host_mean->forget();
    if (state.found.nodes.empty()) return;
    state.placement.place(state.found, [&] {
        // Blocks are about to be given back: nobody may still write to them or read from them.
        ggml().backend_sched_synchronize(sched);
        state.drain();
    });
    if (state.host_mean) state.host_mean->add_to(graph, state.found);
    state.list_inputs();
}

void GraphTap::before_compute(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    State& state = *state_;
    reached_ = true;
    const bool ours = state.graph == graph && !state.found.nodes.empty();
    // Only what cannot wait: the device stands still while we look.
    state.inputs.clear();
    if (state.host_mean) state.host_mean->stop();
    if (ours) {
        if (!state.inputs_keep) state.inputs_keep = inputs_stay(graph);
        for (const ggml_tensor* cells : state.written) state.inputs.keep(cells);
        for (const ggml_tensor* buckets : state.buckets) state.inputs.keep(buckets);
        if (!*state.inputs_keep) state.keep_visibility();
        const FrameName next = collector_.next();
        if (state.host_mean && wanted_.wants_mean(next.sequence, next.index)) {
            state.host_mean->start(state.found, state.inputs, collector_.geometry(), wanted_.mean->rows);
        }
    }
    // A graph of another kind may move what the caches hold.
    const bool all = !ours || state.overwrites_arriving();
    if (!ours || state.overwrites_mean_cells()) {
        settle();
        if (state.arriving) state.mean.wait(state.arriving->slot);
    }
    for (auto& fetch : state.fetches) {
        if (ggml_backend_t engine = backend_of(sched, fetch->device())) fetch->guard(engine, all);
    }
    state.submitted = ours;
}

void GraphTap::after_compute(ggml_backend_sched_t sched, ggml_cgraph* graph, bool succeeded) {
    State& state = *state_;
    if (state.graph != graph || !state.submitted) return;
    state.submitted = false;
    if (!succeeded) return flush();
    settle();
    if (*state.inputs_keep) state.keep_visibility();
    state.keep_computed();
    std::unique_ptr<Arriving> arriving = describe_batch();
    const bool fetched = start_fetches(*arriving, sched);
    if (fetched) start_mean(*arriving);
    complete(); // the batch before this one, while the devices work on this one
    if (!fetched) {
        fail(arriving->batch->frames.front().index,
             "there is no host memory for the transfer from a device (use a smaller -ub)");
        return;
    }
    const bool waits = arriving->waits;
    state.arriving = std::move(arriving);
    if (waits) return;
    complete();
    settle();
}

// The tokens of the graph that has run, who sees whom, and where each layer's data is.
std::unique_ptr<GraphTap::Arriving> GraphTap::describe_batch() {
    State& state = *state_;
    const GraphAttention& found = state.found;
    // With several positions a token (M-RoPE) the first n_query are the temporal ones.
    const uint8_t* positions = found.positions ? state.inputs.data(found.positions) : nullptr;
    const AttentionNode& first = found.nodes.front();
    const bool device = first.k_cache && !is_host(first.k_cache);
    auto arriving = std::make_unique<Arriving>();
    arriving->batch = collector_.begin(found.n_query, reinterpret_cast<const int32_t*>(positions), streams_of(first),
                                       device && first.cache_streams == 1 ? tokens_a_head : 1);
    Batch& batch = *arriving->batch;
    Batch* unfinished = state.arriving ? state.arriving->batch.get() : nullptr;
    if (!state.is_described()) state.described.reset();
    if (state.described) {
        collector_.see_again(batch, state.described->seen, found.nodes, state.inputs, unfinished);
    } else {
        batch.layers.reserve(found.nodes.size());
        for (const AttentionNode& n : found.nodes) collector_.see(batch, n, state.inputs, unfinished);
        collector_.check(batch);
    }
    find_sources(*arriving);
    if (batch.error.empty()) collector_.know_layers(batch);
    collector_.choose_proofs(batch, 0, arriving->sources.size());
    say_what_is_kept(*arriving);
    arriving->slot = state.next_slot;
    state.next_slot = (state.next_slot + 1) % Fetch::n_slots;
    return arriving;
}

// Where each layer's data is.
void GraphTap::find_sources(Arriving& arriving) {
    State& state = *state_;
    Batch& batch = *arriving.batch;
    const std::vector<AttentionNode>& nodes = state.found.nodes;
    if (state.described && !state.described->sources.empty()) {
        arriving.sources = state.described->sources;
        return;
    }
    arriving.sources.reserve(nodes.size());
    for (size_t l = 0; l < nodes.size(); ++l) {
        Result<std::optional<LayerSource>> source =
            source_of(nodes[l], batch.layers[l], state.placement, state.mirrors);
        if (!source && batch.error.empty()) batch.error = source.error().message;
        arriving.sources.push_back(source ? std::move(*source) : std::nullopt);
    }
    if (state.described || batch.part != ModelPart::whole || !batch.error.empty() || !nodes.front().k) return;
    const bool on_host = std::all_of(arriving.sources.begin(), arriving.sources.end(),
                                     [](const auto& s) { return !s || std::holds_alternative<HostLayer>(s->cache); });
    const AttentionNode& first = nodes.front();
    state.described = {Collector::seen(batch), on_host ? arriving.sources : LayerSources(), ne(first.k, 1),
                       data(first.k)};
}

// From which token on queries are kept, and the cells of all new keys.
void GraphTap::say_what_is_kept(Arriving& arriving) {
    const Batch& batch = *arriving.batch;
    const auto kept = std::find_if(batch.frames.begin(), batch.frames.end(),
                                   [&](const Frame& f) { return wanted_.wants_queries(f.sequence, f.index); });
    arriving.first_kept = kept - batch.frames.begin();
    for (const Batch::Group& g : batch.groups)
        arriving.written.insert(arriving.written.end(), g.written.begin(), g.written.end());
    std::sort(arriving.written.begin(), arriving.written.end());
}

// Asks every device for its block. False: there is no memory for it.
bool GraphTap::start_fetches(Arriving& arriving, ggml_backend_sched_t sched) {
    State& state = *state_;
    std::vector<Placement::Block>& blocks = state.placement.blocks();
    arriving.blocks.resize(blocks.size());
    bool fetched = true, some_on_host = false;
    for (size_t b = 0; b < blocks.size(); ++b) {
        if (blocks[b].on_host()) {
            some_on_host |= blocks[b].used > 0; // the next graph computes there
            arriving.blocks[b].host =
                static_cast<const uint8_t*>(ggml().backend_buffer_get_base(blocks[b].memory.get()));
        } else if (blocks[b].used > 0) {
            fetched = fetched && start_fetch(arriving, b, backend_of(sched, blocks[b].device));
            arriving.waits = true;
        }
    }
    arriving.waits = arriving.waits && !some_on_host;
    return fetched;
}

bool GraphTap::start_fetch(Arriving& arriving, size_t index, ggml_backend_t engine) {
    State& state = *state_;
    const Placement::Block& block = state.placement.blocks()[index];
    if (!state.fetch_of(block.device)) state.fetches.push_back(std::make_unique<Fetch>(block.device));
    Fetch& fetch = *state.fetch_of(block.device);
    Arriving::From& from = arriving.blocks[index];
    from.fetch = &fetch;
    const Batch& batch = *arriving.batch;
    std::vector<Fetch::Rows> rows;
    const size_t rows_bytes = rows_to_fetch(arriving.sources, block.device, batch, rows);
    Fetch::How how = Fetch::How::staged;
    const bool without_cache = std::any_of(arriving.sources.begin(), arriving.sources.end(), [](const auto& s) {
        return s && std::holds_alternative<GraphLayer>(s->cache);
    });
    if (batch.n_query > few_tokens && !without_cache) {
        auto gather = std::make_unique<BlockGather>();
        if (gather->make(index, arriving.sources, batch, arriving.first_kept) &&
            fetch.prepare_gather(arriving.slot, block, gather->plan())) {
            gather->apply(arriving.sources);
            from.gather = std::move(gather);
            how = Fetch::How::gathered;
        }
    }
    return engine && fetch.start(arriving.slot, engine, block, rows, rows_bytes, how);
}

void GraphTap::start_mean(Arriving& arriving) {
    const Frame& frame = arriving.batch->frames.front(); // the only one, or there is no mean
    if (!wanted_.wants_mean(frame.sequence, frame.index) || arriving.batch->part != ModelPart::whole) return;
    TokenMean& mean = state_->mean;
    mean.select(wanted_.mean->rows);
    mean.start(arriving.slot, *arriving.batch, arriving.sources, state_->fetches);
    arriving.with_mean = mean.busy(arriving.slot);
}

void GraphTap::after_decode() {
    if (!told_when_to_send_) send();
}

void GraphTap::send() {
    for (auto& fetch : state_->fetches) fetch->send();
}

void GraphTap::flush() {
    complete();
    settle();
    deliver_proven(0);
}

// Delivers what is proven, in order, and waits until at most `waiting` batches are not.
void GraphTap::deliver_proven(size_t waiting) {
    std::deque<std::unique_ptr<Batch>>& proving = state_->proving;
    while (!proving.empty() && (proving.size() > waiting || Collector::proven(*proving.front()))) {
        Collector::wait_until_proven(*proving.front());
        deliver(*proving.front());
        proving.pop_front();
    }
}

// What was being taken is taken: nobody but proofs works beside this thread.
void GraphTap::settle() {
    if (!state_->taking) return;
    const std::unique_ptr<Arriving> taken = std::move(state_->taking);
    state_->taking_done.get();
    state_->proving.push_back(std::move(taken->batch));
}

// Takes the batch whose graph has run. On another thread when its data comes from devices: on this one it would push
// the data that the engine samples with out of the core's caches. At once, on this thread, when the next graph changes
// what the batch is made of.
void GraphTap::complete() {
    settle();
    State& state = *state_;
    if (!state.arriving) return;
    std::unique_ptr<Arriving> arriving = std::move(state.arriving);
    Batch& batch = *arriving->batch;
    if (!batch.error.empty()) {
        deliver_proven(0); // nothing is delivered after an error
        deliver(batch);
        return;
    }
    // Proofs read the mirrors: cells that they may look at are not taken from them.
    if (batch.overwrites) deliver_proven(0);
    const auto on_host = [](const std::optional<LayerSource>& s) { return s && !s->device(); };
    if (std::any_of(arriving->sources.begin(), arriving->sources.end(), on_host)) {
        take(*arriving);
        if (state.host_mean) state.host_mean->finish(batch, collector_);
        collector_.prove(batch); // with the engine's own K and V, which the next graph changes
        deliver(batch); // none waits before it: where a layer lies does not change, so no batch goes the other way
        return;
    }
    // The thread that decodes a prompt must not wait for a core; where proofs do not keep up it had better share than wait.
    const bool many = batch.n_query > 1;
    const bool keeps_up = state.proving.empty() || Collector::proven(*state.proving.back());
    const size_t n_provers = many && keeps_up ? base::helping_threads() : base::n_cores();
    state.taking = std::move(arriving);
    state.taking_done = state.taker.call([this, taking = state.taking.get(), n_provers] {
        take(*taking);
        collector_.start_proving(*taking->batch, static_cast<int32_t>(n_provers), state_->provers);
    });
    deliver_proven(many ? most_batches_proving(state.fetches.size()) : most_proving);
}

} // namespace attnscope::capture
