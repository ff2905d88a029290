#include "attach/inside/cache_contents.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace attnscope::attach {

namespace {
constexpr size_t most_tokens = size_t(1) << 20; // about 80 MB
} // namespace

void CacheContents::remember(std::span<const uint8_t> key, const KnownToken& token) {
    const uint64_t hash = XXH3_64bits(key.data(), key.size());
    if (tokens_.insert_or_assign(hash, token).second) order_.push_back(hash);
    if (order_.size() <= most_tokens) return;
    tokens_.erase(order_.front());
    order_.pop_front();
}

std::optional<KnownToken> CacheContents::find(std::span<const uint8_t> key) const {
    const auto found = tokens_.find(XXH3_64bits(key.data(), key.size()));
    return found == tokens_.end() ? std::nullopt : std::optional(found->second);
}

uint64_t CacheContents::known_as(std::span<const uint8_t> key) const {
    const uint64_t hash = XXH3_64bits(key.data(), key.size());
    return tokens_.count(hash) > 0 ? hash : 0;
}

std::vector<TellingLayer> telling_layers(const Geometry& geometry) {
    std::vector<TellingLayer> layers(size_t(std::max(geometry.n_mask_groups, 1)));
    size_t at = 0;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& info = geometry.layers[size_t(l)];
        if (!info.captured() || info.k_layer != l) continue;
        if (size_t(info.mask_group) < layers.size()) layers[size_t(info.mask_group)] = {l, at, info.k_bytes()};
        at += info.k_bytes();
    }
    return layers;
}

} // namespace attnscope::attach
