#include "capture/collector.h"

#include "attention/engine_arithmetic.h"
#include "base/parallel_for.h"
#include "capture/graph/relative_bias.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace attnscope::capture {

namespace {

bool same_shape(const LayerInfo& a, const LayerInfo& b) {
    return a.layer == b.layer && a.n_head == b.n_head && a.n_head_kv == b.n_head_kv && a.head_dim == b.head_dim &&
           a.k_type == b.k_type && a.q_type == b.q_type && a.key_source == b.key_source &&
           a.mask_group == b.mask_group && a.k_layer == b.k_layer && a.absent == b.absent;
}

bool is_float(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

// Whatever a graph holds, functions are asked for before they are called: not every type has every one.
bool can_be_multiplied(const AttentionNode& node) {
    const ggml_type k = type(node.k);
    if (!dtype_known(k)) return false;
    const ggml_type q = Collector::q_type_of(node);
    if (!dtype_known(q)) return false;
    const bool q_made = q == GGML_TYPE_F32 || attention::engine_arithmetic(static_cast<DType>(q)).from_float;
    return q_made && (is_float(k) || attention::engine_arithmetic(static_cast<DType>(k)).vec_dot);
}

bool can_be_read(ggml_type v) {
    return dtype_known(v) && (is_float(v) || attention::engine_arithmetic(static_cast<DType>(v)).to_float);
}

// A layer of which nothing is kept but its number and the reason.
LayerInfo refused(const LayerInfo& info, const char* why) {
    LayerInfo absent;
    absent.layer = info.layer;
    absent.k_layer = info.k_layer;
    absent.absent = why;
    return absent;
}

Ranges moved(Ranges ranges, int64_t by) {
    for (Range& r : ranges) r.begin += by, r.end += by;
    return ranges;
}

void fail(Batch& batch, const std::string& why) {
    if (batch.error.empty()) batch.error = why;
}

// Tokens that have no frame.
void drop_nobodys(Batch& batch) {
    size_t kept = 0;
    for (size_t i = 0; i < batch.frames.size(); ++i) {
        if (batch.frames[i].sequence == Tokens::nobody) continue;
        if (kept != i) {
            batch.frames[kept] = std::move(batch.frames[i]);
            if (i < batch.facts.size()) batch.facts[kept] = std::move(batch.facts[i]);
        }
        ++kept;
    }
    if (batch.facts.size() == batch.frames.size()) batch.facts.resize(kept);
    batch.frames.resize(kept);
}

} // namespace

ggml_type Collector::q_type_of(const AttentionNode& node) {
    return static_cast<ggml_type>(attention::engine_arithmetic(static_cast<DType>(type(node.k))).vec_dot_type);
}

void Collector::reset() {
    next_index_.clear();
    samples_ = 0;
    for (CellMap& map : maps_) map.clear();
}

int64_t Collector::next_index(int64_t sequence) const {
    const auto found = next_index_.find(sequence);
    return found == next_index_.end() ? 0 : found->second;
}

void Collector::truncate(int64_t sequence, int64_t index) {
    next_index_[sequence] = std::min(next_index(sequence), index);
}

void Collector::share(const Shared& s) {
    next_index_[s.to] = std::min(next_index(s.from), s.n);
    const int64_t from = s.from_stream < 0 ? s.from : s.from_stream, to = s.to_stream < 0 ? s.to : s.to_stream;
    if (from == to) return;
    for (size_t g = 0; g < maps_.size(); ++g) {
        if (stream_cells_[g] > 0) maps_[g].copy(from * stream_cells_[g], to * stream_cells_[g], stream_cells_[g], s.n);
    }
}

void Collector::know_cell(int32_t group, int64_t cell, int64_t column, int32_t position) {
    if (group >= 0 && size_t(group) < maps_.size()) maps_[size_t(group)].assign(cell, column, position);
}

void Collector::announce(const Tokens& tokens) {
    tokens_ = tokens;
    left_.resize(tokens.ids.size());
    std::iota(left_.begin(), left_.end(), size_t{0});
}

FrameName Collector::next() const {
    const int64_t sequence = left_.empty() ? 0 : tokens_.sequence(left_.front());
    return {sequence, next_index(sequence)};
}

// Of those left, the first one of the stream; the first one where streams tell nothing.
size_t Collector::next_token(int64_t stream) {
    auto at = left_.begin();
    if (stream >= 0 && !tokens_.sequences.empty() && !tokens_.in_graph_order) {
        at = std::find_if(left_.begin(), left_.end(), [&](size_t i) { return tokens_.sequence(i) == stream; });
        if (at == left_.end()) return tokens_.ids.size();
    }
    const size_t token = *at;
    left_.erase(at);
    return token;
}

int64_t Batch::most_columns() const {
    int64_t most = 0;
    for (const Frame& f : frames) most = std::max(most, f.index + 1);
    return most;
}

std::vector<int32_t> streams_of(const AttentionNode& node) {
    std::vector<int32_t> streams;
    if (node.cache_streams == 1) return streams;
    for (int64_t s = 0; s < node.n_stream; ++s) {
        streams.insert(streams.end(), size_t(ne(node.q, 1)), static_cast<int32_t>(node.first_stream + s));
    }
    return streams;
}

std::unique_ptr<Batch> Collector::begin(int64_t n_query, const int32_t* positions, std::vector<int32_t> streams,
                                        int32_t tokens_a_head) {
    auto batch = std::make_unique<Batch>();
    batch->streams = std::move(streams);
    batch->n_query = n_query;
    batch->first_sample = samples_;
    batch->tokens_a_head = n_query == 1 ? 1 : std::max(tokens_a_head, 1);
    batch->positions.resize(size_t(n_query));
    batch->frames.resize(size_t(n_query));
    batch->q_bytes = geometry_.q_bytes();
    batch->k_bytes = geometry_.k_bytes();
    if (size_t(n_query) > left_.size()) {
        fail(*batch, "the engine's graph has " + std::to_string(n_query) + " tokens, and the decode only " +
                         std::to_string(left_.size()));
    }
    for (int64_t i = 0; i < n_query; ++i) {
        const size_t token =
            left_.empty() ? tokens_.ids.size() : next_token(batch->streams.empty() ? -1 : batch->stream(i));
        if (token == tokens_.ids.size())
            fail(*batch, "the engine's graph has tokens of a sequence that the decode has not");
        Frame& f = batch->frames[size_t(i)];
        f.token = token < tokens_.ids.size() ? tokens_.ids[token] : -1;
        f.kind = tokens_.kind_of(token);
        f.sequence = tokens_.sequence(token);
        f.index = next_index_[f.sequence]++;
        f.position = positions                          ? positions[i]
                     : token < tokens_.positions.size() ? tokens_.positions[token]
                                                        : static_cast<int32_t>(f.index);
        f.batched = n_query > 1;
        batch->positions[size_t(i)] = f.position;
    }
    const int64_t each = n_query == 1 ? options_.witnesses_single : options_.witnesses_batch;
    samples_ += static_cast<uint64_t>((n_query + batch->tokens_a_head - 1) / batch->tokens_a_head * each);
    return batch;
}

void Collector::drop(const Batch& batch) {
    for (auto f = batch.frames.rbegin(); f != batch.frames.rend(); ++f) next_index_[f->sequence] = f->index;
    samples_ = batch.first_sample;
}

int32_t Collector::group_of(Batch& batch, const AttentionNode& node) {
    const ggml_tensor* k_cells = node.k_cells;
    int64_t first = node.k_copy ? first_cell(node.k_copy, node) : -1;
    if (!stores_keys(node) && !node.graph_keys) {
        const Batch::Group& lent = batch.groups[size_t(lender(batch, node)->written_group)];
        k_cells = lent.k_cells, first = lent.first_cell;
    }
    for (size_t g = 0; g < batch.groups.size(); ++g) {
        const Batch::Group& group = batch.groups[g];
        if (group.mask == node.mask && group.k_cells == k_cells && group.first_cell == first)
            return static_cast<int32_t>(g);
    }
    batch.groups.emplace_back();
    batch.groups.back().mask = node.mask;
    batch.groups.back().k_cells = k_cells;
    batch.groups.back().first_cell = first;
    if (maps_.size() < batch.groups.size()) {
        maps_.emplace_back();
        stream_cells_.push_back(0);
    }
    return static_cast<int32_t>(batch.groups.size()) - 1;
}

LayerInfo Collector::describe(const AttentionNode& node) const {
    LayerInfo info;
    info.layer = node.layer;
    info.absent = node.refusal;
    if (!node.refusal.empty()) return info;
    if (!can_be_multiplied(node)) {
        info.absent = std::string("keys of type ") + ggml().type_name(type(node.k)) + " are not supported";
        return info;
    }
    if (!can_be_read(type(node.v))) {
        info.absent = std::string("values of type ") + ggml().type_name(type(node.v)) + " are not supported";
        return info;
    }
    info.n_head = static_cast<int32_t>(ne(node.q, 2));
    info.n_head_kv = static_cast<int32_t>(ne(node.k, 2));
    info.head_dim = static_cast<int32_t>(ne(node.k, 0));
    info.head_dim_v = static_cast<int32_t>(ne(node.out, 0));
    info.q_type = static_cast<DType>(q_type_of(node));
    info.k_type = static_cast<DType>(type(node.k));
    info.scale = node.scale;
    info.softcap = node.softcap;
    info.post_scale = node.post_scale;
    info.max_bias = node.max_bias;
    info.on_device = !is_host(node.k_cache);
    if (node.sinks && !geometry_known_) { // weights: they do not change, and reading them from a device takes its time
        info.sinks.resize(size_t(info.n_head));
        ggml().backend_tensor_get(node.sinks, info.sinks.data(), 0, info.sinks.size() * sizeof(float));
    }
    if (node.bias && !geometry_known_ && !read_relative_bias(node, info))
        return refused(info, "its added bias is of a type that is not supported");
    return info;
}

// The layer whose keys `node` reads, seen before; none where nobody stores them.
const Batch::Layer* Collector::lender(const Batch& batch, const AttentionNode& node) {
    for (const Batch::Layer& earlier : batch.layers) {
        if (earlier.info.captured() && earlier.k_cache == node.k_cache) return &earlier;
    }
    return nullptr;
}

// What each token of a batch wrote, and sees, in the cells of a group that is met for the first time.
void Collector::see_group(Batch& batch, size_t index, const AttentionNode& node, const Inputs& inputs,
                          Batch* unfinished) {
    Batch::Group& group = batch.groups[index];
    CellMap& map = maps_[index];
    group.written.assign(size_t(batch.n_query), 0);
    group.cells.resize(size_t(batch.n_query));
    group.columns.resize(size_t(batch.n_query));
    const uint8_t* cells = group.k_cells ? inputs.data(group.k_cells) : nullptr;
    if ((group.k_cells && !cells) || !inputs.knows(group.mask))
        return fail(batch, "what layer " + std::to_string(node.layer) + " was given was not seen");
    const bool in_cache = !node.graph_keys;
    const int64_t n_cells =
        in_cache ? static_cast<int64_t>(nbytes(node.k_cache) / nb(node.k, 1)) : std::min(batch.n_query, ne(node.k, 1));
    group.stream_cells = node.cache_streams > 1 ? node.stream_cells : 0;
    stream_cells_[index] = group.stream_cells;
    for (int64_t i = 0; i < batch.n_query; ++i) {
        int64_t cell = in_cache ? group.first_cell + i : i;
        if (cells) std::memcpy(&cell, cells + size_t(i) * sizeof cell, sizeof cell);
        if (cell < 0 || cell >= n_cells) return fail(batch, "a key is stored outside of its cache");
        group.written[size_t(i)] = cell;
        const bool taken = in_cache && map.column(cell) != CellMap::unknown;
        batch.overwrites = batch.overwrites || taken;
        if (taken && unfinished && index < unfinished->groups.size())
            unfinished->groups[index].before.push_back(map.entry(cell));
        const Frame& frame = batch.frames[size_t(i)];
        map.assign(cell, frame.sequence == Tokens::nobody ? CellMap::unknown : frame.index, batch.positions[size_t(i)]);
    }
    for (int64_t i = 0; i < batch.n_query; ++i) {
        group.cells[size_t(i)] = inputs.visible(group.mask, i);
        const int64_t first = batch.first_cell(static_cast<int32_t>(index), i), unknown = batch.n_unknown;
        const Ranges& seen = group.cells[size_t(i)];
        if (batch.frames[size_t(i)].sequence == Tokens::nobody) continue;
        Ranges& columns = group.columns[size_t(i)];
        columns = map.columns_of(first == 0 ? seen : moved(seen, first), &batch.n_unknown);
        // Of one sequence no two cells hold the same column: else the mask shows cells of another one, or what was forgotten.
        if (unknown == batch.n_unknown && ranges_count(columns) != ranges_count(seen))
            fail(batch, "the mask shows two cells that hold the same place of a sequence");
    }
}

// What is added to the scores must be what the table by distance says.
void Collector::see_bias(Batch& batch, const AttentionNode& node, int32_t group, const Inputs& inputs) const {
    const uint8_t* buckets = inputs.data(node.buckets);
    if (!buckets) return fail(batch, "what layer " + std::to_string(node.layer) + " adds to its scores was not seen");
    const std::vector<Ranges>& cells = batch.groups[size_t(group)].cells;
    if (!buckets_fit(node, buckets, batch.positions, cells, maps_[size_t(group)].positions())) {
        fail(batch, "what layer " + std::to_string(node.layer) + " adds to its scores is no bias by distance");
    }
}

void Collector::see(Batch& batch, const AttentionNode& node, const Inputs& inputs, Batch* unfinished) {
    const auto index = static_cast<int32_t>(batch.layers.size());
    Batch::Layer layer;
    layer.info = describe(node);
    layer.info.k_layer = index;
    if (layer.info.captured() && node.graph_keys) {
        layer.info.key_source = KeySource::graph;
    } else if (layer.info.captured() && !stores_keys(node)) { // keys of an earlier layer
        const Batch::Layer* owner = lender(batch, node);
        if (!owner)
            layer.info = refused(layer.info, "its keys are not written by this graph");
        else if (owner->info.k_bytes() != layer.info.k_bytes()) {
            layer.info = refused(layer.info, "it reads the keys of another layer in another shape");
        } else
            layer.info.k_layer = owner->info.k_layer;
    }
    if (layer.info.captured()) {
        const size_t groups_before = batch.groups.size();
        layer.group = group_of(batch, node);
        layer.info.mask_group = layer.group;
        if (batch.groups.size() != groups_before) see_group(batch, size_t(layer.group), node, inputs, unfinished);
        if (geometry_known_ && index < geometry_.n_layer()) {
            const LayerInfo& known = geometry_.layers[size_t(index)];
            layer.info.sinks = known.sinks;
            layer.info.bias = known.bias, layer.info.bias_reach = known.bias_reach;
        }
        if (node.bias) see_bias(batch, node, layer.group, inputs);
        layer.n_cells = ne(node.k, 1);
        layer.v_type = static_cast<DType>(type(node.v));
        layer.v_used = static_cast<DType>(node.v_used);
        layer.flash = node.flash;
        layer.k_cache = node.k_cache;
        layer.written_group = layer.group;
    }
    batch.layers.push_back(std::move(layer));
}

void Collector::take(Batch& batch, size_t index, const HostAttention& data) {
    batch.data.resize(batch.layers.size());
    batch.data[index] = data;
    bring_keys_together(batch, index);
    for (int64_t i = 0; i < batch.n_query; ++i) take_token(batch, index, i);
}

void Collector::take(Batch& batch, std::vector<HostAttention> data) {
    constexpr size_t many = 64;
    batch.data = std::move(data);
    for (size_t l = 0; l < batch.data.size(); ++l) bring_keys_together(batch, l);
    const auto take = [&](size_t i) {
        for (size_t l = 0; l < batch.layers.size(); ++l) take_token(batch, l, static_cast<int64_t>(i));
    };
    // the memory of so many frames is new, and takes longer to get than to fill
    base::parallel_for(size_t(batch.n_query), many, take);
}

// Where the heads of a key lie apart: rows and proofs want them one behind the other, as caches have them.
void Collector::bring_keys_together(Batch& batch, size_t index) {
    HostAttention& data = batch.data[index];
    const LayerInfo& info = batch.layers[index].info;
    if (!info.captured() || data.k_head == 0) return;
    batch.keys.resize(batch.layers.size());
    std::vector<uint8_t>& keys = batch.keys[index];
    const size_t head = dtype_row_bytes(info.k_type, info.head_dim), n_head = size_t(info.n_head_kv);
    keys.resize(size_t(batch.n_query) * n_head * head);
    for (size_t i = 0; i < size_t(batch.n_query); ++i) {
        for (size_t h = 0; h < n_head; ++h) {
            std::memcpy(keys.data() + (i * n_head + h) * head, data.k + i * data.k_cell + h * data.k_head, head);
        }
    }
    data.k = keys.data(), data.k_cell = n_head * head, data.k_head = 0;
}

void Collector::find_facts(Batch& batch) const {
    if (!options_.facts) return;
    constexpr size_t many = 32;
    batch.facts.resize(batch.frames.size());
    const auto find = [&](size_t i) { batch.facts[i] = options_.facts(geometry_, batch.frames[i]); };
    base::parallel_for(batch.frames.size(), many, find);
}

void Collector::take_token(Batch& batch, size_t index, int64_t i) const {
    const Batch::Layer& layer = batch.layers[index];
    const LayerInfo& info = layer.info;
    if (!info.captured()) return;
    const HostAttention& data = batch.data[index];
    Frame& f = batch.frames[size_t(i)];
    if (!queries_ || queries_(f.sequence, f.index)) {
        if (f.q.empty()) f.q.reserve(batch.q_bytes);
        if (data.q_kept) {
            const uint8_t* q = data.q_kept + size_t(i - data.first_kept) * data.q_kept_token;
            f.q.insert(f.q.end(), q, q + info.q_bytes());
        } else {
            const size_t at = f.q.size();
            f.q.resize(at + info.q_bytes());
            convert_heads(info.q_type, data.q_of(size_t(i), 0), data.q_head, info.n_head, info.head_dim,
                          f.q.data() + at);
        }
    }
    if (info.k_layer == static_cast<int32_t>(index)) {
        const int64_t cell = batch.groups[size_t(layer.written_group)].written[size_t(i)];
        const uint8_t* row = data.k + size_t(cell) * data.k_cell;
        if (f.k.empty()) f.k.reserve(batch.k_bytes);
        f.k.insert(f.k.end(), row, row + info.k_bytes());
    }
}

CellView Collector::cells(Batch& batch, size_t group) const {
    std::vector<CellView::Entry>& before = batch.groups[group].before;
    std::sort(before.begin(), before.end(),
              [](const CellView::Entry& a, const CellView::Entry& b) { return a.cell < b.cell; });
    return {maps_[group], before};
}

void Collector::check(Batch& batch) const {
    if (!geometry_known_ || !batch.error.empty()) return;
    if (geometry_.layers.size() != batch.layers.size()) return fail(batch, "the number of attention layers changed");
    for (size_t i = 0; i < batch.layers.size() && batch.error.empty(); ++i) {
        const LayerInfo& known = geometry_.layers[i];
        const LayerInfo& now = batch.layers[i].info;
        if (known.captured() && !now.captured()) {
            fail(batch, "layer " + std::to_string(known.layer) + ": " + now.absent);
        } else if (!same_shape(known, now)) {
            fail(batch, "the shape of layer " + std::to_string(now.layer) + " changed between two graphs");
        }
    }
}

void Collector::know_layers(const Batch& batch) {
    if (geometry_known_) return;
    for (const Batch::Layer& layer : batch.layers) geometry_.layers.push_back(layer.info);
    geometry_.n_mask_groups = std::max(static_cast<int32_t>(batch.groups.size()), 1);
    geometry_known_ = true;
}

bool Collector::finish(Batch& batch, std::string& error) {
    const auto n_groups = static_cast<int32_t>(batch.groups.size());
    check(batch);
    know_layers(batch);
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
    }
    drop_nobodys(batch);
    return true;
}

} // namespace attnscope::capture
