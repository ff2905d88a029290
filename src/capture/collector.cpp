#include "capture/collector.h"

#include "base/parallel_for.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace attnscope::capture {

namespace {

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

void Collector::reset() {
    next_index_.clear();
    samples_ = 0;
    n_encoded_ = 0;
    decoded_ = false;
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

// Where the layers and mask groups of the batch's graph stand among all of the model.
void Collector::begin_part(Batch& batch) {
    batch.part = tokens_.part;
    if (batch.part == ModelPart::whole) return;
    if (batch.part == ModelPart::encoder) {
        n_encoded_ = batch.n_query;
        decoded_ = false;
        return;
    }
    batch.first_decode = !decoded_;
    decoded_ = true;
    if (parts_.empty() || n_encoded_ == 0)
        return batch.fail("the decoder's tokens came before a text of the encoder's");
    const Part& encoder = parts_.front();
    batch.first_layer = encoder.n_layer;
    batch.q_before = geometry_.q_offset(encoder.n_layer);
    batch.k_before = geometry_.k_offset(encoder.n_layer);
    batch.groups.resize(size_t(encoder.n_group));
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
    begin_part(*batch);
    if (size_t(n_query) > left_.size()) {
        batch->fail("the engine's graph has " + std::to_string(n_query) + " tokens, and the decode only " +
                    std::to_string(left_.size()));
    }
    for (int64_t i = 0; i < n_query; ++i) {
        const size_t token =
            left_.empty() ? tokens_.ids.size() : next_token(batch->streams.empty() ? -1 : batch->stream(i));
        if (token == tokens_.ids.size())
            batch->fail("the engine's graph has tokens of a sequence that the decode has not");
        Frame& f = batch->frames[size_t(i)];
        if (!spare_.empty()) {
            f.q.swap(spare_.back().q), f.k.swap(spare_.back().k);
            spare_.pop_back();
        }
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

void Collector::give_back(Frame&& frame) {
    constexpr size_t most = 16;
    if (spare_.size() == most) return;
    Frame spare;
    spare.q.swap(frame.q), spare.k.swap(frame.k);
    spare.q.clear(), spare.k.clear();
    spare_.push_back(std::move(spare));
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
    if (batch.with_facts) batch.facts.resize(batch.frames.size());
    const auto take = [&](size_t i) {
        for (size_t l = 0; l < batch.layers.size(); ++l) take_token(batch, l, static_cast<int64_t>(i));
        if (batch.with_facts) batch.facts[i] = options_.facts(geometry_, batch.frames[i]);
    };
    // the memory of so many frames is new, and takes longer to get than to fill
    base::parallel_for(size_t(batch.n_query), many, take);
}

// Where the heads of a key lie apart: rows and proofs want them one behind the other, as caches have them.
void Collector::bring_keys_together(Batch& batch, size_t index) {
    HostAttention& data = batch.data[index];
    const LayerInfo& info = batch.layers[index].info;
    if (!info.captured() || data.k_head == 0) return;
    const size_t head = dtype_row_bytes(info.k_type, info.head_dim), n_head = size_t(info.n_head_kv);
    auto n = size_t(batch.n_query);
    if (info.role == LayerRole::cross) { // of a text that may be long, again for each token: only where they are read
        n = size_t(batch.layers[index].n_cells);
        const bool read =
            batch.first_decode || std::any_of(batch.proofs.begin(), batch.proofs.end(),
                                              [&](const auto& p) { return p.layer == static_cast<int32_t>(index); });
        if (!read) return;
    }
    batch.keys.resize(batch.layers.size());
    std::vector<uint8_t>& keys = batch.keys[index];
    keys.resize(n * n_head * head);
    for (size_t i = 0; i < n; ++i) {
        for (size_t h = 0; h < n_head; ++h) {
            std::memcpy(keys.data() + (i * n_head + h) * head, data.k + i * data.k_cell + h * data.k_head, head);
        }
    }
    data.k = keys.data(), data.k_cell = n_head * head, data.k_head = 0;
    if (info.role != LayerRole::cross || !batch.first_decode) return;
    batch.cross_keys.resize(batch.layers.size());
    batch.cross_keys[index] = keys;
}

void Collector::fill_up(Batch& batch) const {
    if (batch.part == ModelPart::whole) return;
    for (Frame& f : batch.frames) {
        if (!f.q.empty()) f.q.resize(geometry_.q_bytes());
        f.k.resize(geometry_.k_bytes());
    }
}

bool Collector::whole(const Batch& batch) const {
    const Part* part = known(batch);
    return part && batch.layers.size() >= size_t(part->n_layer);
}

void Collector::take_token(Batch& batch, size_t index, int64_t i) const {
    const Batch::Layer& layer = batch.layers[index];
    const LayerInfo& info = layer.info;
    if (!info.captured()) return;
    const HostAttention& data = batch.data[index];
    Frame& f = batch.frames[size_t(i)];
    if (!queries_ || queries_(f.sequence, f.index)) {
        if (f.q.empty()) {
            f.q.reserve(batch.q_bytes);
            f.q.resize(batch.q_before);
        }
        if (data.q_kept) {
            const uint8_t* q = data.q_kept + size_t(i - data.first_kept) * data.q_kept_token;
            f.q.insert(f.q.end(), q, q + info.q_bytes());
        } else {
            const size_t at = f.q.size();
            f.q.resize(at + info.q_bytes());
            convert_queries(info, layer.q_used, data.q_of(size_t(i), 0), data.q_head, info.n_head, f.q.data() + at);
        }
    }
    if (info.k_layer == batch.first_layer + static_cast<int32_t>(index)) {
        if (f.k.empty()) {
            f.k.reserve(batch.k_bytes);
            f.k.resize(batch.k_before);
        }
        if (info.role == LayerRole::cross) { // its keys are those of other tokens
            f.k.resize(f.k.size() + info.k_bytes());
            return;
        }
        const int64_t cell = batch.groups[size_t(layer.written_group)].written[size_t(i)];
        const uint8_t* row = data.k + size_t(cell) * data.k_cell;
        f.k.insert(f.k.end(), row, row + info.k_bytes());
    }
}

CellView Collector::cells(Batch& batch, size_t group) const {
    std::vector<CellView::Entry>& before = batch.groups[group].before;
    std::sort(before.begin(), before.end(),
              [](const CellView::Entry& a, const CellView::Entry& b) { return a.cell < b.cell; });
    return {maps_[group], before};
}

bool Collector::finish(Batch& batch, std::string& error) {
    const auto n_groups = static_cast<int32_t>(batch.groups.size());
    check(batch);
    know_layers(batch);
    if (batch.n_unknown > 0) batch.fail("the mask shows cells whose tokens were decoded before the capture began");
    if (!batch.error.empty()) {
        error = batch.error;
        return false;
    }
    fill_up(batch);
    for (int64_t i = 0; i < batch.n_query; ++i) {
        Frame& f = batch.frames[size_t(i)];
        for (int32_t g = 0; g < geometry_.n_mask_groups; ++g) {
            const bool seen = g < n_groups && !batch.groups[size_t(g)].columns.empty();
            f.visible.push_back(seen ? std::move(batch.groups[size_t(g)].columns[size_t(i)]) : Ranges{});
        }
    }
    drop_nobodys(batch);
    return true;
}

} // namespace attnscope::capture
