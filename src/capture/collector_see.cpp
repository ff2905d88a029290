// What a graph shows of its attention: the layers, the groups that share a mask, who sees whom, and whether all that is what it
// was before.
#include "attention/engine_arithmetic.h"
#include "capture/collector.h"
#include "capture/graph/relative_bias.h"

#include <attnscope/rows.h>

#include <cstring>
#include <string_view>

namespace attnscope::capture {

namespace {

bool same_shape(const LayerInfo& a, const LayerInfo& b) {
    return a.layer == b.layer && a.n_head == b.n_head && a.n_head_kv == b.n_head_kv && a.head_dim == b.head_dim &&
           a.k_type == b.k_type && a.q_type == b.q_type && a.key_source == b.key_source && a.role == b.role &&
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

// Can the CPU's flash attention multiply the queries of many tokens as they are? As ggml_compute_forward_flash_attn_ext_f16
// asks, but for their number. What the kernels of another ggml do is not known: with them queries stay as one token's are.
bool can_be_tiled(const AttentionNode& node) {
#if defined(ATTNSCOPE_FOREIGN_GGML)
    (void)node;
    return false;
#else
    const int64_t lanes = attention_simd_name() == std::string_view("avx512") ? 16 : 8; // GGML_F32_EPR
    return node.flash && type(node.k) == GGML_TYPE_F16 && node.v_used == GGML_TYPE_F16 && is_host(node.k_cache) &&
           ne(node.out, 0) % lanes == 0;
#endif
}

constexpr int64_t tile_queries = 64; // GGML_FA_TILE_Q: fewer are rounded one by one

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

} // namespace

ggml_type Collector::q_type_of(const AttentionNode& node) {
    return static_cast<ggml_type>(attention::engine_arithmetic(static_cast<DType>(type(node.k))).vec_dot_type);
}

std::vector<int32_t> streams_of(const AttentionNode& node) {
    std::vector<int32_t> streams;
    if (node.cache_streams == 1) return streams;
    for (int64_t s = 0; s < node.n_stream; ++s) {
        streams.insert(streams.end(), size_t(ne(node.q, 1)), static_cast<int32_t>(node.first_stream + s));
    }
    return streams;
}

int32_t Collector::group_of(Batch& batch, const AttentionNode& node) {
    const ggml_tensor* k_cells = node.k_cells;
    int64_t first = node.k_copy ? first_cell(node.k_copy, node) : -1;
    if (!stores_keys(node) && !node.graph_keys) {
        const Batch::Group& lent = batch.groups[size_t(lender(batch, node)->written_group)];
        k_cells = lent.k_cells, first = lent.copied_to;
    }
    for (size_t g = 0; g < batch.groups.size(); ++g) {
        const Batch::Group& group = batch.groups[g];
        if (group.mask == node.mask && group.k_cells == k_cells && group.copied_to == first)
            return static_cast<int32_t>(g);
    }
    batch.groups.emplace_back();
    batch.groups.back().mask = node.mask;
    batch.groups.back().k_cells = k_cells;
    batch.groups.back().copied_to = first;
    if (maps_.size() < batch.groups.size()) {
        maps_.resize(batch.groups.size());
        stream_cells_.resize(batch.groups.size());
    }
    return static_cast<int32_t>(batch.groups.size()) - 1;
}

// Into `info`, which is as it was made: this is done for every layer of every token.
void Collector::describe(const Batch& batch, const AttentionNode& node, LayerInfo& info) const {
    info.layer = node.layer;
    info.absent = node.refusal;
    if (!node.refusal.empty()) return;
    if (!can_be_multiplied(node)) {
        info.absent = std::string("keys of type ") + ggml().type_name(type(node.k)) + " are not supported";
        return;
    }
    if (!can_be_read(type(node.v))) {
        info.absent = std::string("values of type ") + ggml().type_name(type(node.v)) + " are not supported";
        return;
    }
    info.n_head = static_cast<int32_t>(ne(node.q, 2));
    info.n_head_kv = static_cast<int32_t>(ne(node.k, 2));
    info.head_dim = static_cast<int32_t>(ne(node.k, 0));
    info.head_dim_v = static_cast<int32_t>(ne(node.out, 0));
    info.q_type = can_be_tiled(node) ? DType::f32 : static_cast<DType>(q_type_of(node));
    info.k_type = static_cast<DType>(type(node.k));
    info.scale = node.scale;
    info.softcap = node.softcap;
    info.post_scale = node.post_scale;
    info.max_bias = node.max_bias;
    info.on_device = !is_host(node.k_cache);
    if (node.sinks && !known(batch)) { // weights: they do not change, and reading them from a device takes its time
        info.sinks.resize(size_t(info.n_head));
        ggml().backend_tensor_get(node.sinks, info.sinks.data(), 0, info.sinks.size() * sizeof(float));
    }
    if (node.bias && !known(batch) && !read_relative_bias(node, info))
        info = refused(info, "its added bias is of a type that is not supported");
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
    if (!node.cross) group.written.assign(size_t(batch.n_query), 0);
    group.cells.resize(size_t(batch.n_query));
    group.columns.resize(size_t(batch.n_query));
    const uint8_t* cells = group.k_cells ? inputs.data(group.k_cells) : nullptr;
    if ((group.k_cells && !cells) || !inputs.knows(group.mask))
        return batch.fail("what layer " + std::to_string(node.layer) + " was given was not seen");
    const bool in_cache = !node.graph_keys;
    const int64_t n_cells =
        in_cache ? static_cast<int64_t>(nbytes(node.k_cache) / nb(node.k, 1)) : std::min(batch.n_query, ne(node.k, 1));
    group.stream_cells = node.cache_streams > 1 ? node.stream_cells : 0;
    stream_cells_[index] = group.stream_cells;
    if (node.cross) see_cross_cells(batch, index);
    for (int64_t i = 0; i < batch.n_query && !node.cross; ++i) {
        int64_t cell = in_cache ? group.copied_to + i : i;
        if (cells) std::memcpy(&cell, cells + size_t(i) * sizeof cell, sizeof cell);
        if (cell < 0 || cell >= n_cells) return batch.fail("a key is stored outside of its cache");
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
        const int64_t first = batch.first_cell_of_stream(static_cast<int32_t>(index), i), unknown = batch.n_unknown;
        const Ranges& seen = group.cells[size_t(i)];
        if (batch.frames[size_t(i)].sequence == Tokens::nobody) continue;
        Ranges& columns = group.columns[size_t(i)];
        columns = map.columns_of(first == 0 ? seen : moved(seen, first), &batch.n_unknown);
        // Of one sequence no two cells hold the same column: else the mask shows cells of another one, or what was forgotten.
        if (unknown == batch.n_unknown && ranges_count(columns) != ranges_count(seen))
            batch.fail("the mask shows two cells that hold the same place of a sequence");
    }
}

// What is added to the scores must be what the table by distance says.
void Collector::see_bias(Batch& batch, const AttentionNode& node, int32_t group, const Inputs& inputs) const {
    const uint8_t* buckets = inputs.data(node.buckets);
    if (!buckets) return batch.fail("what layer " + std::to_string(node.layer) + " adds to its scores was not seen");
    const std::vector<Ranges>& cells = batch.groups[size_t(group)].cells;
    if (!buckets_fit(node, buckets, batch.positions, cells, maps_[size_t(group)].positions())) {
        batch.fail("what layer " + std::to_string(node.layer) + " adds to its scores is no bias by distance");
    }
}

// Of cross attention cells are the tokens that the encoder read, the first frames of the sequence.
void Collector::see_cross_cells(const Batch& batch, size_t group) {
    CellMap& map = maps_[group];
    if (!batch.first_decode && map.columns().size() == size_t(n_encoded_)) return;
    map.clear();
    for (int64_t i = 0; i < n_encoded_; ++i) map.assign(i, i, static_cast<int32_t>(i));
}

void Collector::refuse_cross(const Batch& batch, const AttentionNode& node, LayerInfo& info) const {
    if (batch.part != ModelPart::decoder)
        info = refused(info, "it looks at what an encoder read, which was not seen");
    else if (!is_host(node.k_cache))
        info = refused(info, "its keys of the encoder's text lie on a device (use -ngl 0)");
    else if (ne(node.k, 1) != n_encoded_)
        info = refused(info, "it does not look at the text that the encoder read last");
}

void Collector::see(Batch& batch, const AttentionNode& node, const Inputs& inputs, Batch* unfinished) {
    const auto index = batch.first_layer + static_cast<int32_t>(batch.layers.size());
    Batch::Layer layer;
    describe(batch, node, layer.info);
    layer.info.k_layer = index;
    if (layer.info.captured() && node.cross) refuse_cross(batch, node, layer.info);
    if (layer.info.captured() && batch.part != ModelPart::whole) {
        layer.info.role = node.cross                         ? LayerRole::cross
                          : batch.part == ModelPart::encoder ? LayerRole::encoder
                                                             : LayerRole::decoder;
    }
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
        if (known(batch) && index < geometry_.n_layer()) {
            const LayerInfo& known = geometry_.layers[size_t(index)];
            layer.info.sinks = known.sinks;
            layer.info.bias = known.bias, layer.info.bias_reach = known.bias_reach;
        }
        if (node.bias) see_bias(batch, node, layer.group, inputs);
        layer.n_cells = ne(node.k, 1);
        layer.v_type = static_cast<DType>(type(node.v));
        layer.v_used = static_cast<DType>(node.v_used);
        layer.q_used = can_be_tiled(node) && ne(node.q, 1) < tile_queries ? DType::f16 : layer.info.q_type;
        layer.flash = node.flash;
        layer.k_cache = node.k_cache;
        layer.written_group = layer.group;
    }
    batch.layers.push_back(std::move(layer));
}

Collector::Seen Collector::seen(const Batch& batch) {
    Seen seen{batch.layers, {}};
    for (size_t l = 0; l < batch.layers.size(); ++l) {
        const Batch::Layer& layer = batch.layers[l];
        if (layer.info.captured() && size_t(layer.group) == seen.first_of_group.size())
            seen.first_of_group.push_back(l);
    }
    return seen;
}

void Collector::see_again(Batch& batch, const Seen& seen, std::span<const AttentionNode> nodes, const Inputs& inputs,
                          Batch* unfinished) {
    batch.layers = seen.layers;
    for (const size_t l : seen.first_of_group) {
        const int32_t group = group_of(batch, nodes[l]);
        see_group(batch, size_t(group), nodes[l], inputs, unfinished);
    }
    for (size_t l = 0; l < nodes.size(); ++l) {
        if (nodes[l].bias && batch.layers[l].info.captured()) see_bias(batch, nodes[l], batch.layers[l].group, inputs);
    }
}

void Collector::check(Batch& batch) const {
    const Part* part = known(batch);
    if (!part || !batch.error.empty()) return;
    if (size_t(part->n_layer) != batch.layers.size()) return batch.fail("the number of attention layers changed");
    for (size_t i = 0; i < batch.layers.size() && batch.error.empty(); ++i) {
        const LayerInfo& before = geometry_.layers[size_t(part->first_layer) + i];
        const LayerInfo& now = batch.layers[i].info;
        if (before.captured() && !now.captured()) {
            batch.fail("layer " + std::to_string(before.layer) + ": " + now.absent);
        } else if (!same_shape(before, now)) {
            batch.fail("the shape of layer " + std::to_string(now.layer) + " changed between two graphs");
        }
    }
}

void Collector::know_layers(const Batch& batch) {
    if (known(batch) || place_of(batch.part) != parts_.size()) return;
    for (const Batch::Layer& layer : batch.layers) geometry_.layers.push_back(layer.info);
    geometry_.n_mask_groups = std::max(static_cast<int32_t>(batch.groups.size()), 1);
    parts_.push_back({batch.first_layer, static_cast<int32_t>(batch.layers.size()), geometry_.n_mask_groups});
}

} // namespace attnscope::capture
