#include "tap/collector.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <numeric>

namespace attnscope::tap {

namespace {

bool same_shape(const LayerInfo& a, const LayerInfo& b) {
    return a.layer == b.layer && a.n_head == b.n_head && a.n_head_kv == b.n_head_kv && a.head_dim == b.head_dim &&
           a.k_type == b.k_type && a.q_type == b.q_type && a.mask_group == b.mask_group && a.k_layer == b.k_layer &&
           a.absent == b.absent;
}

constexpr int64_t many_cells = 16384;

// A step through the (layer, head) pairs that reaches all of them and does not stay in one layer.
uint64_t coprime_step(uint64_t n) {
    uint64_t step = static_cast<uint64_t>(static_cast<double>(n) * 0.6180339887498949) | 1;
    while (step > 1 && std::gcd(step, n) != 1) step += 2;
    return step;
}

void fail(Batch& batch, const std::string& why) {
    if (batch.error.empty()) batch.error = why;
}

// `n` heads of one token, f32, into rows of `type`.
void convert_heads(DType type, const uint8_t* from, size_t stride, int32_t n, int32_t dim, uint8_t* to) {
    const size_t row = dtype_row_bytes(type, dim);
    const auto from_float = ggml_get_type_traits_cpu(static_cast<ggml_type>(type))->from_float;
    for (int32_t h = 0; h < n; ++h) {
        const uint8_t* head = from + size_t(h) * stride;
        if (type == DType::f32) {
            std::memcpy(to + size_t(h) * row, head, row);
        } else {
            from_float(reinterpret_cast<const float*>(head), to + size_t(h) * row, dim);
        }
    }
}

} // namespace

ggml_type Collector::q_type_of(const AttentionNode& node) {
    return ggml_get_type_traits_cpu(node.k->type)->vec_dot_type;
}

void Collector::reset() {
    next_index_ = 0;
    samples_ = 0;
    for (CellMap& map : maps_) map.clear();
}

void Collector::truncate(int64_t index) { next_index_ = std::min(next_index_, index); }

std::unique_ptr<Batch> Collector::begin(int64_t n_query, const int32_t* positions) {
    auto batch = std::make_unique<Batch>();
    batch->first_index = next_index_;
    batch->n_query = n_query;
    batch->first_sample = samples_;
    batch->positions.resize(size_t(n_query));
    batch->frames.resize(size_t(n_query));
    const size_t q_bytes = geometry_.q_bytes(), k_bytes = geometry_.k_bytes();
    for (int64_t i = 0; i < n_query; ++i) {
        batch->positions[size_t(i)] = positions ? positions[i] : static_cast<int32_t>(next_index_ + i);
        Frame& f = batch->frames[size_t(i)];
        f.index = next_index_ + i;
        f.position = batch->positions[size_t(i)];
        f.batched = n_query > 1;
        if (!keep_q || keep_q(f.index)) f.q.reserve(q_bytes);
        f.k.reserve(k_bytes);
    }
    next_index_ += n_query;
    samples_ += static_cast<uint64_t>(n_query * (n_query == 1 ? options_.witnesses_single : options_.witnesses_batch));
    return batch;
}

void Collector::drop(const Batch& batch) {
    next_index_ = batch.first_index;
    samples_ = batch.first_sample;
}

int32_t Collector::group_of(Batch& batch, const AttentionNode& node) {
    for (size_t g = 0; g < batch.groups.size(); ++g) {
        const Batch::Group& group = batch.groups[g];
        if (group.mask != node.mask) continue;
        // A layer that borrows another layer's keys writes none of its own.
        if (!node.k_cells || !group.k_cells || group.k_cells == node.k_cells) return static_cast<int32_t>(g);
    }
    batch.groups.emplace_back();
    batch.groups.back().mask = node.mask;
    batch.groups.back().k_cells = node.k_cells;
    if (maps_.size() < batch.groups.size()) maps_.emplace_back();
    return static_cast<int32_t>(batch.groups.size()) - 1;
}

LayerInfo Collector::describe(const AttentionNode& node, int32_t group) const {
    LayerInfo info;
    info.layer = node.layer;
    info.absent = node.refusal;
    if (!node.refusal.empty()) return info;
    if (!dtype_known(node.k->type) || !dtype_known(q_type_of(node))) {
        info.absent = std::string("keys of type ") + ggml_type_name(node.k->type) + " are not supported";
        return info;
    }
    info.n_head = static_cast<int32_t>(node.q->ne[2]);
    info.n_head_kv = static_cast<int32_t>(node.k->ne[2]);
    info.head_dim = static_cast<int32_t>(node.k->ne[0]);
    info.head_dim_v = static_cast<int32_t>(node.out->ne[0]);
    info.q_type = static_cast<DType>(q_type_of(node));
    info.k_type = static_cast<DType>(node.k->type);
    info.mask_group = group;
    info.scale = node.scale;
    info.softcap = node.softcap;
    info.post_scale = node.post_scale;
    info.max_bias = node.max_bias;
    if (node.sinks && !geometry_known_) { // weights: they do not change, and reading them from a device takes its time
        info.sinks.resize(size_t(info.n_head));
        ggml_backend_tensor_get(node.sinks, info.sinks.data(), 0, info.sinks.size() * sizeof(float));
    }
    return info;
}

const Inputs::Copy* Inputs::find(const ggml_tensor* t) const {
    for (size_t i = 0; i < used_; ++i) {
        if (copies_[i].tensor == t) return &copies_[i];
    }
    return nullptr;
}

Inputs::Copy* Inputs::add(const ggml_tensor* t) {
    if (find(t)) return nullptr;
    if (used_ == copies_.size()) copies_.emplace_back();
    Copy& copy = copies_[used_++];
    copy.tensor = t;
    return &copy;
}

void Inputs::keep(const ggml_tensor* t) {
    Copy* copy = add(t);
    if (!copy) return;
    copy->bytes.resize(ggml_nbytes(t));
    ggml_backend_tensor_get(t, copy->bytes.data(), 0, copy->bytes.size());
}

const uint8_t* Inputs::data(const ggml_tensor* t) const {
    const Copy* copy = find(t);
    return copy ? copy->bytes.data() : nullptr;
}

void Inputs::keep_mask(const ggml_tensor* mask, int64_t n_query) {
    Copy* copy = add(mask);
    if (!copy) return;
    constexpr size_t piece_bytes = size_t(256) << 10; // stays in a core's cache
    const int64_t at_once = std::max<int64_t>(1, static_cast<int64_t>(piece_bytes / mask->nb[1]));
    copy->rows.resize(size_t(n_query));
    n_query = std::min(n_query, mask->ne[1]);
    for (int64_t first = 0; first < n_query; first += at_once) {
        const int64_t n = std::min(at_once, n_query - first);
        copy->bytes.resize(size_t(n) * mask->nb[1]);
        ggml_backend_tensor_get(mask, copy->bytes.data(), size_t(first) * mask->nb[1], copy->bytes.size());
        for (int64_t i = 0; i < n; ++i) copy->rows[size_t(first + i)] = visible_cells(mask, copy->bytes.data(), i);
    }
}

const Ranges& Inputs::visible(const ggml_tensor* mask, int64_t row) const { return find(mask)->rows[size_t(row)]; }

void Collector::see(Batch& batch, const AttentionNode& node, const Inputs& inputs, Batch* unfinished) {
    const auto index = static_cast<int32_t>(batch.layers.size());
    Batch::Layer layer;
    if (node.refusal.empty()) {
        const size_t groups_before = batch.groups.size();
        layer.group = group_of(batch, node);
        Batch::Group& group = batch.groups[size_t(layer.group)];
        if (batch.groups.size() != groups_before) {
            CellMap& map = maps_[size_t(layer.group)];
            if (group.k_cells) {
                const uint8_t* cells = inputs.data(group.k_cells);
                for (int64_t i = 0; i < batch.n_query; ++i) {
                    int64_t cell = 0;
                    std::memcpy(&cell, cells + size_t(i) * sizeof cell, sizeof cell);
                    group.written.push_back(cell);
                    const bool taken = map.column(cell) != CellMap::unknown;
                    batch.overwrites = batch.overwrites || taken;
                    if (taken && unfinished && size_t(layer.group) < unfinished->groups.size()) {
                        unfinished->groups[size_t(layer.group)].before.push_back(map.entry(cell));
                    }
                    map.assign(cell, batch.first_index + i, batch.positions[size_t(i)]);
                }
            }
            for (int64_t i = 0; i < batch.n_query; ++i) {
                group.cells.push_back(inputs.visible(group.mask, i));
                group.columns.push_back(map.columns_of(group.cells.back(), &batch.n_unknown));
            }
        }
    }
    layer.info = describe(node, layer.group);
    layer.info.k_layer = index;
    if (geometry_known_ && index < geometry_.n_layer()) layer.info.sinks = geometry_.layers[size_t(index)].sinks;
    if (layer.info.captured()) {
        layer.n_cells = node.k->ne[1];
        layer.v_type = static_cast<DType>(node.v->type);
        layer.flash = node.flash;
        layer.k_cache = node.k_cache;
        layer.written_group = layer.group;
        if (!node.k_cells) { // keys of an earlier layer
            layer.info.k_layer = -1;
            for (const Batch::Layer& earlier : batch.layers) {
                if (earlier.k_cache == node.k_cache) layer.info.k_layer = earlier.info.k_layer;
            }
            if (layer.info.k_layer < 0) {
                layer.info.absent = "its keys are not written by this graph";
                layer.info.n_head = 0;
                layer.info.k_layer = index;
            }
        }
    }
    batch.layers.push_back(std::move(layer));
}

void Collector::take(Batch& batch, size_t index, const HostAttention& data) {
    const Batch::Layer& layer = batch.layers[index];
    const LayerInfo& info = layer.info;
    batch.data.resize(batch.layers.size());
    if (!info.captured()) return;
    batch.data[index] = data;
    const bool owns_k = info.k_layer == static_cast<int32_t>(index);
    const Batch::Group& group = batch.groups[size_t(layer.written_group)];
    for (int64_t i = 0; i < batch.n_query; ++i) {
        Frame& f = batch.frames[size_t(i)];
        if (!keep_q || keep_q(f.index)) {
            const size_t at = f.q.size();
            f.q.resize(at + info.q_bytes());
            convert_heads(info.q_type, data.q + size_t(i) * data.q_token, data.q_head, info.n_head, info.head_dim,
                          f.q.data() + at);
        }
        if (owns_k) {
            const uint8_t* row = data.k + size_t(group.written[size_t(i)]) * data.k_cell;
            f.k.insert(f.k.end(), row, row + info.k_bytes());
        }
    }
    if (options_.witness && geometry_known_) choose_proofs(batch, index);
}

// The heads of this layer whose turn it is.
void Collector::choose_proofs(Batch& batch, size_t layer) const {
    const auto n_layer = static_cast<uint64_t>(geometry_.layers.size());
    const auto n_head = static_cast<uint64_t>(geometry_.max_heads());
    const uint64_t n_pairs = n_layer * n_head;
    if (n_pairs == 0) return;
    const uint64_t step = coprime_step(n_pairs);
    const int32_t each = batch.n_query == 1 ? options_.witnesses_single : options_.witnesses_batch;
    // A proof reads K and V of its head once. Beside a GPU, whose tokens take little longer at long contexts, one must do there.
    const int32_t now = batch.data[layer].device && batch.layers[layer].n_cells > many_cells ? std::min(each, 1) : each;
    for (int64_t i = 0; i < batch.n_query; ++i) {
        for (int32_t w = 0; w < now; ++w) {
            const uint64_t sample = batch.first_sample + static_cast<uint64_t>(i * each + w);
            const uint64_t pair = (sample % n_pairs) * step % n_pairs;
            if (pair / n_head != layer) continue;
            const auto head = static_cast<int32_t>(pair % n_head) % batch.layers[layer].info.n_head;
            batch.proofs.push_back({static_cast<int32_t>(layer), head, i});
        }
    }
}

CellView Collector::cells(Batch& batch, size_t group) const {
    std::vector<CellView::Entry>& before = batch.groups[group].before;
    std::sort(before.begin(), before.end(), [](const CellView::Entry& a, const CellView::Entry& b) { return a.cell < b.cell; });
    return {maps_[group], before};
}

// All of a proof's sample but Q, the columns and the positions.
HeadSample Collector::sample(const Batch& batch, const Batch::Proof& proof) const {
    const Batch::Layer& layer = batch.layers[size_t(proof.layer)];
    const LayerInfo& info = layer.info;
    const HostAttention& data = batch.data[size_t(proof.layer)];
    const int64_t head_kv = proof.head / (info.n_head / info.n_head_kv);
    HeadSample s;
    s.layer = &info;
    s.layer_index = proof.layer;
    s.head = proof.head;
    s.k = data.k;
    s.k_stride = data.k_cell;
    s.n_cells = layer.n_cells;
    s.visible = batch.groups[size_t(layer.group)].cells[size_t(proof.token)];
    s.position = batch.positions[size_t(proof.token)];
    s.v_type = layer.v_type;
    s.v_dim_stride = data.v_dim;
    s.v_cell_stride = data.v_cell;
    s.v = data.v + size_t(head_kv) * data.v_head;
    s.out = reinterpret_cast<const float*>(data.out + size_t(proof.token) * data.out_token + size_t(proof.head) * data.out_head);
    s.flash = layer.flash;
    s.batched = batch.n_query > 1;
    s.device = data.device;
    return s;
}

void Collector::prove(Batch& batch) {
    std::vector<uint8_t> q;
    for (const Batch::Proof& proof : batch.proofs) {
        const LayerInfo& info = batch.layers[size_t(proof.layer)].info;
        const HostAttention& data = batch.data[size_t(proof.layer)];
        const CellMap& map = maps_[size_t(batch.layers[size_t(proof.layer)].group)];
        HeadSample s = sample(batch, proof);
        q.resize(info.q_bytes());
        convert_heads(info.q_type, data.q + size_t(proof.token) * data.q_token, data.q_head, info.n_head, info.head_dim, q.data());
        s.q = q.data();
        s.columns = map.columns();
        s.positions = map.positions();
        batch.frames[size_t(proof.token)].witnesses.push_back(options_.witness(s));
    }
    batch.proofs.clear();
}

struct Proving {
    struct Item {
        HeadSample sample;
        int64_t token = 0;
        std::vector<uint8_t> q;
        std::vector<float> out;
    };
    WitnessFunction witness;
    std::vector<Item> items;
    std::vector<Witness> results;
    std::vector<std::vector<int64_t>> columns;   // one a group
    std::vector<std::vector<int32_t>> positions; // one a group, where ALiBi needs them
    std::atomic<size_t> next{0};
    std::vector<std::future<void>> workers;

    void work() {
        for (size_t i = next++; i < items.size(); i = next++) results[i] = witness(items[i].sample);
    }
};

Batch::Batch() = default;
Batch::~Batch() = default; // a std::async future waits for its thread

void Collector::start_proving(Batch& batch, int32_t n_threads) {
    if (batch.proofs.empty()) return;
    batch.proving = std::make_unique<Proving>();
    Proving& p = *batch.proving;
    p.witness = options_.witness;
    p.columns.resize(batch.groups.size());
    p.positions.resize(batch.groups.size());
    p.items.resize(batch.proofs.size());
    p.results.resize(batch.proofs.size());
    for (size_t i = 0; i < batch.proofs.size(); ++i) {
        const Batch::Proof& proof = batch.proofs[i];
        const LayerInfo& info = batch.layers[size_t(proof.layer)].info;
        const HostAttention& data = batch.data[size_t(proof.layer)];
        const auto group = size_t(batch.layers[size_t(proof.layer)].group);
        if (p.columns[group].empty()) p.columns[group] = cells(batch, group).columns();
        if (info.max_bias > 0 && p.positions[group].empty()) p.positions[group] = cells(batch, group).positions();
        Proving::Item& item = p.items[i];
        item.token = proof.token;
        item.sample = sample(batch, proof);
        item.q.resize(info.q_bytes());
        convert_heads(info.q_type, data.q + size_t(proof.token) * data.q_token, data.q_head, info.n_head, info.head_dim,
                      item.q.data());
        item.out.assign(item.sample.out, item.sample.out + info.head_dim_v);
        item.sample.q = item.q.data();
        item.sample.out = item.out.data();
        item.sample.columns = p.columns[group];
        item.sample.positions = p.positions[group];
    }
    const size_t n = std::min<size_t>(size_t(std::max(n_threads, 1)), p.items.size());
    for (size_t t = 0; t < n; ++t) p.workers.push_back(std::async(std::launch::async, [&p] { p.work(); }));
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

bool Collector::finish(Batch& batch, std::vector<Frame>& frames, std::string& error) {
    const auto n_groups = static_cast<int32_t>(batch.groups.size());
    if (!geometry_known_) {
        for (Batch::Layer& layer : batch.layers) geometry_.layers.push_back(layer.info);
        geometry_.n_mask_groups = std::max(n_groups, 1);
        geometry_known_ = true;
    } else {
        if (geometry_.layers.size() != batch.layers.size()) fail(batch, "the number of attention layers changed");
        for (size_t i = 0; i < batch.layers.size() && batch.error.empty(); ++i) {
            if (!same_shape(geometry_.layers[i], batch.layers[i].info)) {
                fail(batch, "the shape of layer " + std::to_string(batch.layers[i].info.layer) + " changed between two graphs");
            }
        }
    }
    if (batch.n_unknown > 0) fail(batch, "the mask shows cells whose tokens were decoded before the capture began");
    if (!batch.error.empty()) {
        error = batch.error;
        return false;
    }
    for (int64_t i = 0; i < batch.n_query; ++i) {
        Frame& f = batch.frames[size_t(i)];
        for (int32_t g = 0; g < geometry_.n_mask_groups; ++g) {
            f.visible.push_back(g < n_groups ? std::move(batch.groups[size_t(g)].columns[size_t(i)]) : Ranges{});
        }
        frames.push_back(std::move(f));
    }
    return true;
}

} // namespace attnscope::tap
