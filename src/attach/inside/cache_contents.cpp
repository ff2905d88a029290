#include "attach/inside/cache_contents.h"

#include "base/hash64.h"

#include <algorithm>
#include <iterator>

namespace attnscope::attach {

namespace {

constexpr size_t most_tokens = size_t(1) << 20; // about 140 MB
constexpr size_t most_readings = 32;            // of one key

} // namespace

void CacheContents::remember(std::span<const uint8_t> key, uint64_t all, const KnownToken& token) {
    Line& line = lines_[token.line];
    n_in_lines_ -= line.all.size();
    if (line.all.empty() || token.index < line.first || token.index > line.first + std::ssize(line.all))
        line = {token.index, {}};
    line.all.resize(size_t(token.index - line.first)); // what it had there was taken back
    line.all.push_back(all);
    n_in_lines_ += line.all.size();
    for (; n_in_lines_ > most_tokens; lines_.erase(lines_.begin())) n_in_lines_ -= lines_.begin()->second.all.size();
    const uint64_t hash = base::hash64(key);
    std::vector<Reading>& readings = tokens_[hash];
    if (readings.size() == most_readings)
        readings.erase(readings.begin());
    else
        order_.push_back(hash);
    readings.push_back({token, all});
    if (order_.size() <= most_tokens) return;
    const auto oldest = tokens_.find(order_.front());
    oldest->second.erase(oldest->second.begin());
    if (oldest->second.empty()) tokens_.erase(oldest);
    order_.pop_front();
}

std::vector<KnownToken> CacheContents::find(std::span<const uint8_t> key, const std::function<uint64_t()>& all) const {
    const auto found = tokens_.find(base::hash64(key));
    if (found == tokens_.end()) return {};
    // Also of the only one: keys of few bits are the same in one layer though the text was read another time, by somebody unknown.
    std::vector<KnownToken> tokens;
    const uint64_t there = all();
    for (const Reading& r : found->second) {
        if (r.all == there) tokens.push_back(r.token);
    }
    return tokens;
}

bool CacheContents::holds(uint64_t all, int64_t line, int64_t index) const {
    const auto found = lines_.find(line);
    if (found == lines_.end() || index < found->second.first) return false;
    const auto at = size_t(index - found->second.first);
    return at < found->second.all.size() && found->second.all[at] == all;
}

uint64_t CacheContents::known_as(std::span<const uint8_t> key) const {
    const uint64_t hash = base::hash64(key);
    return tokens_.count(hash) > 0 ? hash : 0;
}

uint64_t CacheContents::with_key(uint64_t others, std::span<const uint8_t> key) {
    return base::hash64(key, others);
}

Ranges cells_at(const CacheMemory& cache, uintptr_t begin, uintptr_t end) {
    const size_t cell = cache.cell > 0 ? cache.cell : cache.value_cell;
    if (cell == 0 || begin >= end) return {};
    const size_t from = begin - cache.begin, to = end - cache.begin;
    const auto range = [&](size_t first, size_t last) {
        return Ranges{{static_cast<int64_t>(first), static_cast<int64_t>(last)}};
    };
    if (cache.value_element == 0) return range(from / cell, (to + cell - 1) / cell);
    const size_t per_stream = cache.value_element / cell;
    const size_t stream = from / cache.stream, in_stream = from % cache.stream;
    const size_t first = in_stream % cache.value_element, last = first + (end - begin);
    if (last <= cache.value_element)
        return range(stream * per_stream + first / cell, stream * per_stream + (last + cell - 1) / cell);
    return range(stream * per_stream,
                 ((to + cache.stream - 1) / cache.stream) * per_stream); // of more than one element
}

std::vector<TellingLayer> telling_layers(const Geometry& geometry) {
    std::vector<TellingLayer> layers(size_t(std::max(geometry.n_mask_groups, 1)));
    size_t at = 0;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& info = geometry.layers[size_t(l)];
        if (!info.captured() || info.k_layer != l) continue;
        const KeyPlace place{l, at, info.k_bytes()};
        at += info.k_bytes();
        if (size_t(info.mask_group) >= layers.size()) continue;
        TellingLayer& group = layers[size_t(info.mask_group)];
        static_cast<KeyPlace&>(group) = place;
        group.all.push_back(place);
    }
    return layers;
}

} // namespace attnscope::attach
