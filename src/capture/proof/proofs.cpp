// The proofs of a batch: which heads, with what, and on which threads.
#include "capture/collector.h"

#include "attention/dots.h"
#include "attention/engine_arithmetic.h"
#include "base/parallel_for.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <mutex>
#include <numeric>
#include <utility>

namespace attnscope::capture {

namespace {

// A proof reads K and V of one head once. A token has a single proof where more would be felt: on a CPU, whose threads
// wait for it, and on a GPU at long contexts.
constexpr int64_t few_columns_on_host = 1024, few_columns_on_device = 16384;
// So many columns of proofs are worth another thread: half a millisecond.
constexpr int64_t columns_a_thread = 4096;

// A step through the (layer, head) pairs that reaches all of them and does not stay in one layer.
uint64_t coprime_step(uint64_t n) {
    uint64_t step = static_cast<uint64_t>(static_cast<double>(n) * 0.6180339887498949) | 1;
    while (step > 1 && std::gcd(step, n) != 1) step += 2;
    return step;
}

} // namespace

// `n` heads of one token, f32, into rows of `type`.
void convert_heads(DType type, const uint8_t* from, size_t stride, int32_t n, int32_t dim, uint8_t* to) {
    if (stride == size_t(dim) * sizeof(float)) dim *= n, n = 1; // one behind the other
    const size_t row = dtype_row_bytes(type, dim);
    const auto from_float = attention::engine_arithmetic(type).from_float;
    for (int32_t h = 0; h < n; ++h) {
        const uint8_t* head = from + size_t(h) * stride;
        if (type == DType::f32) {
            std::memcpy(to + size_t(h) * row, head, row);
        } else {
            from_float(reinterpret_cast<const float*>(head), to + size_t(h) * row, dim);
        }
    }
}

void convert_queries(const LayerInfo& layer, DType used, const uint8_t* from, size_t stride, int32_t n, uint8_t* to) {
    convert_heads(layer.q_type, from, stride, n, layer.head_dim, to);
    if (used == layer.q_type) return;
    // a head at a time through the narrower type, in place
    thread_local std::vector<uint8_t> rounded;
    rounded.resize(dtype_row_bytes(used, layer.head_dim));
    const auto narrow = attention::engine_arithmetic(used).from_float;
    const size_t row = dtype_row_bytes(layer.q_type, layer.head_dim);
    for (int32_t h = 0; h < n; ++h) {
        auto* const head = static_cast<float*>(static_cast<void*>(to + size_t(h) * row));
        narrow(head, rounded.data(), layer.head_dim);
        attention::to_floats(used, rounded.data(), head, layer.head_dim);
    }
}

uint64_t proof_pair(uint64_t first_sample, int64_t run, int32_t each, int32_t now, int32_t w, uint64_t n_pairs) {
    const auto n = static_cast<uint64_t>(now);
    // Counted in steps of `now`, or only some of the pairs would ever have their turn.
    const uint64_t turn = first_sample / static_cast<uint64_t>(each) + static_cast<uint64_t>(run);
    const uint64_t sample = now == each ? first_sample + static_cast<uint64_t>(run) * n + static_cast<uint64_t>(w)
                                        : turn * n + static_cast<uint64_t>(w);
    return (sample % n_pairs) * coprime_step(n_pairs) % n_pairs;
}

void Collector::choose_proofs(Batch& batch, size_t begin, size_t end) const {
    const Part* part = known(batch);
    // of the halves of a model they depend on what is known at the end only
    batch.with_facts = options_.facts && part && batch.part == ModelPart::whole;
    if (!options_.witness || !part || !batch.error.empty()) return;
    const auto n_head = static_cast<uint64_t>(geometry_.max_heads());
    // Layers of which nothing is taken have no turn: whatever they stand for, every token has its proof.
    std::vector<size_t> layers; // of the batch
    for (size_t l = 0; l < size_t(part->n_layer); ++l) {
        if (geometry_.layers[size_t(part->first_layer) + l].captured()) layers.push_back(l);
    }
    const uint64_t n_pairs = layers.size() * n_head;
    if (n_pairs == 0) return;
    const bool all_on_device = std::all_of(geometry_.layers.begin(), geometry_.layers.end(),
                                           [](const LayerInfo& l) { return !l.captured() || l.on_device; });
    const int64_t few = all_on_device ? few_columns_on_device : few_columns_on_host;
    const int32_t each = batch.n_query == 1 ? options_.witnesses_single : options_.witnesses_batch;
    // The same for all layers, however much each of them sees: a token's turn would be counted differently for two layers, and
    // could be in neither of them.
    const int32_t now = batch.most_columns() > few ? std::min(each, 1) : each;
    const size_t first = batch.proofs.size();
    for (int64_t i = 0; i < batch.n_query; ++i) {
        if (batch.frames[size_t(i)].sequence == Tokens::nobody) continue;
        for (int32_t w = 0; w < now; ++w) {
            const uint64_t pair = proof_pair(batch.first_sample, i / batch.tokens_a_head, each, now, w, n_pairs);
            const size_t layer = layers[pair / n_head];
            if (layer < begin || layer >= end || !batch.layers[layer].info.captured()) continue;
            Batch::Proof proof;
            proof.layer = static_cast<int32_t>(layer);
            proof.head = static_cast<int32_t>(pair % n_head) % batch.layers[layer].info.n_head;
            proof.token = i;
            batch.proofs.push_back(proof);
        }
    }
    std::stable_sort(batch.proofs.begin() + static_cast<ptrdiff_t>(first), batch.proofs.end(),
                     [](const Batch::Proof& a, const Batch::Proof& b) { return a.layer < b.layer; });
}

// All of a proof's sample but Q, the columns and the positions.
HeadSample Collector::sample(const Batch& batch, const Batch::Proof& proof) const {
    const Batch::Layer& layer = batch.layers[size_t(proof.layer)];
    const LayerInfo& info = layer.info;
    const HostAttention& data = batch.data[size_t(proof.layer)];
    const int64_t head_kv = proof.head / (info.n_head / info.n_head_kv);
    HeadSample s;
    s.layer = &info;
    s.layer_index = batch.first_layer + proof.layer;
    s.head = proof.head;
    const auto stream = size_t(batch.stream(proof.token));
    s.k = data.k + stream * size_t(batch.groups[size_t(layer.group)].stream_cells) * data.k_cell;
    s.k_stride = data.k_cell;
    s.n_cells = layer.n_cells;
    s.visible = batch.groups[size_t(layer.group)].cells[size_t(proof.token)];
    s.position = batch.positions[size_t(proof.token)];
    s.v_type = layer.v_type;
    s.v_used = layer.v_used;
    s.v_dim_stride = data.v_dim;
    s.v_cell_stride = data.v_cell;
    s.v = data.v + stream * data.v_stream + size_t(head_kv) * data.v_head;
    s.out =
        proof.out ? proof.out : reinterpret_cast<const float*>(data.out_of(size_t(proof.token), size_t(proof.head)));
    s.flash = layer.flash;
    s.batched = batch.n_query > 1;
    s.device = data.device;
    return s;
}

// The query that is proven, at its place among the (n_head, head_dim) of its layer; the others stay unset.
void Collector::proof_query(const Batch& batch, const Batch::Proof& proof, std::vector<uint8_t>& q) const {
    const LayerInfo& info = batch.layers[size_t(proof.layer)].info;
    const HostAttention& data = batch.data[size_t(proof.layer)];
    const size_t row = dtype_row_bytes(info.q_type, info.head_dim);
    q.resize(info.q_bytes());
    const uint8_t* from =
        proof.q ? reinterpret_cast<const uint8_t*>(proof.q) : data.q_of(size_t(proof.token), size_t(proof.head));
    convert_queries(info, batch.layers[size_t(proof.layer)].q_used, from, 0, 1, q.data() + size_t(proof.head) * row);
}

namespace {

// Proofs that one pass over a head's keys and values serves: [begin, end) of those of a batch.
struct Together {
    size_t begin = 0, end = 0;
};

// Puts proofs of one head side by side.
std::vector<Together> bring_together(std::vector<Batch::Proof>& proofs) {
    const auto head = [](const Batch::Proof& p) { return std::pair(p.layer, p.head); };
    std::stable_sort(proofs.begin(), proofs.end(),
                     [&](const Batch::Proof& a, const Batch::Proof& b) { return head(a) < head(b); });
    std::vector<Together> all;
    for (size_t i = 0; i < proofs.size(); ++i) {
        const bool joins =
            i > 0 && head(proofs[i]) == head(proofs[i - 1]) && all.back().end - all.back().begin < max_proofs_together;
        if (joins)
            ++all.back().end;
        else
            all.push_back({i, i + 1});
    }
    return all;
}

// Of something by cell of a cache: from the first cell of the stream on that the proof's token is in.
template <class T>
std::span<const T> of_stream(std::span<const T> by_cell, const Batch& batch, const Batch::Proof& proof) {
    const int32_t group = batch.layers[size_t(proof.layer)].group;
    return by_cell.subspan(std::min(size_t(batch.first_cell_of_stream(group, proof.token)), by_cell.size()));
}

} // namespace

void Collector::prove(Batch& batch) {
    if (batch.proofs.empty()) return;
    if (!prove_) prove_ = options_.witness();
    std::array<std::vector<uint8_t>, max_proofs_together> q;
    std::array<HeadSample, max_proofs_together> samples;
    std::array<Witness, max_proofs_together> witnesses;
    for (const Together& t : bring_together(batch.proofs)) {
        const size_t n = t.end - t.begin;
        for (size_t i = 0; i < n; ++i) {
            const Batch::Proof& proof = batch.proofs[t.begin + i];
            const CellMap& map = maps_[size_t(batch.layers[size_t(proof.layer)].group)];
            HeadSample& s = samples[i];
            s = sample(batch, proof);
            proof_query(batch, proof, q[i]);
            s.q = q[i].data();
            s.columns = of_stream(map.columns(), batch, proof);
            s.positions = of_stream(map.positions(), batch, proof);
        }
        prove_(std::span(samples).first(n), std::span(witnesses).first(n));
        for (size_t i = 0; i < n; ++i)
            batch.frames[size_t(batch.proofs[t.begin + i].token)].witnesses.push_back(witnesses[i]);
    }
    batch.proofs.clear();
}

// A prover's memory grows with the context: it is not given back and asked for again with every token.
class Provers {
public:
    explicit Provers(std::function<WitnessFunction()> make) : make_(std::move(make)) {}
    WitnessFunction take() {
        {
            const std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                WitnessFunction prove = std::move(idle_.back());
                idle_.pop_back();
                return prove;
            }
        }
        return make_();
    }
    void give_back(WitnessFunction prove) {
        const std::lock_guard lock(mutex_);
        idle_.push_back(std::move(prove));
    }

private:
    const std::function<WitnessFunction()> make_;
    std::mutex mutex_;
    std::vector<WitnessFunction> idle_;
};

struct Proving {
    ~Proving() {
        for (const std::future<void>& w : workers) {
            if (w.valid()) w.wait();
        }
    }
    struct Item {
        int64_t token = 0;
        std::vector<uint8_t> q;
        std::vector<float> out;
    };
    std::shared_ptr<Provers> provers;
    std::vector<Item> items;
    std::vector<HeadSample> samples; // of the items
    std::vector<Witness> results;
    std::vector<Together> together;
    std::vector<std::vector<int64_t>> columns;   // one a group; empty: cells are columns
    std::vector<std::vector<int32_t>> positions; // one a group, where ALiBi needs them
    std::atomic<size_t> next{0};
    std::vector<std::future<void>> workers;

    void work() {
        WitnessFunction prove = provers->take();
        for (size_t i = next++; i < together.size(); i = next++) {
            const Together& t = together[i];
            prove(std::span(samples).subspan(t.begin, t.end - t.begin),
                  std::span(results).subspan(t.begin, t.end - t.begin));
        }
        provers->give_back(std::move(prove));
    }
};

Batch::Batch() = default;
Batch::~Batch() = default;

Collector::Collector(CollectorOptions options)
    : options_(std::move(options)), provers_(std::make_shared<Provers>(options_.witness)) {}

void Collector::start_proving(Batch& batch, int32_t n_threads, base::ThreadPool& helpers) {
    if (batch.proofs.empty()) return;
    batch.proving = std::make_unique<Proving>();
    Proving& p = *batch.proving;
    p.provers = provers_;
    p.columns.resize(batch.groups.size());
    p.positions.resize(batch.groups.size());
    p.together = bring_together(batch.proofs);
    p.items.resize(batch.proofs.size());
    p.samples.resize(batch.proofs.size());
    p.results.resize(batch.proofs.size());
    std::vector<CellView> views;
    for (size_t g = 0; g < batch.groups.size(); ++g) views.push_back(cells(batch, g));
    for (const Batch::Proof& proof : batch.proofs) {
        const Batch::Layer& layer = batch.layers[size_t(proof.layer)];
        const auto group = size_t(layer.group);
        const CellView& view = views[group];
        if (p.columns[group].empty() && !view.in_order()) p.columns[group] = view.columns();
        if (layer.info.by_distance() && p.positions[group].empty()) p.positions[group] = view.positions();
    }
    const auto copy = [&](size_t i) {
        const Batch::Proof& proof = batch.proofs[i];
        const auto group = size_t(batch.layers[size_t(proof.layer)].group);
        Proving::Item& item = p.items[i];
        item.token = proof.token;
        HeadSample& s = p.samples[i];
        s = sample(batch, proof);
        proof_query(batch, proof, item.q);
        item.out.assign(s.out, s.out + s.layer->head_dim_v);
        s.q = item.q.data();
        s.out = item.out.data();
        s.columns = of_stream<int64_t>(p.columns[group], batch, proof);
        s.positions = of_stream<int32_t>(p.positions[group], batch, proof);
    };
    constexpr size_t many = 64;
    base::parallel_for(batch.proofs.size(), many, copy);
    int64_t columns = 0;
    for (const Together& t : p.together) columns += p.samples[t.begin].n_cells;
    // A thread that wakes for a few rows takes the cores of the program that decodes, and its caches.
    const auto n_worth = size_t(1 + columns / columns_a_thread);
    const size_t n = std::min({size_t(std::max(n_threads, 1)), n_worth, p.together.size()});
    for (size_t t = 0; t < n; ++t) p.workers.push_back(helpers.call([&p] { p.work(); }));
    batch.proofs.clear();
}

bool Collector::proven(const Batch& batch) {
    if (!batch.proving) return true;
    for (const std::future<void>& w : batch.proving->workers) {
        if (w.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return false;
    }
    return true;
}

void Collector::wait_until_proven(Batch& batch) {
    if (!batch.proving) return;
    Proving& p = *batch.proving;
    for (std::future<void>& w : p.workers) w.get();
    for (size_t i = 0; i < p.items.size(); ++i) {
        batch.frames[size_t(p.items[i].token)].witnesses.push_back(p.results[i]);
    }
    batch.proving.reset();
}

} // namespace attnscope::capture
