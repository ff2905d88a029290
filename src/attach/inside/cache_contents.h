// Which token's keys lie in a cell that no graph has stored to (a restored state, a prompt cache, a copied stream): told by their
// bytes. The key of a deep layer is made of the whole text before it, so it stands for its place in that text.
#pragma once

#include <attnscope/types.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace attnscope::attach {

// A token that was captured.
struct KnownToken {
    int64_t line = 0, index = 0;
    int32_t position = 0;
};

// The tokens captured lately, by the keys of one layer. Bounded: the oldest are forgotten.
class CacheContents {
public:
    void remember(std::span<const uint8_t> key, const KnownToken& token);
    std::optional<KnownToken> find(std::span<const uint8_t> key) const;
    // What stands for the key; 0: no token captured lately has it.
    uint64_t known_as(std::span<const uint8_t> key) const;

private:
    std::unordered_map<uint64_t, KnownToken> tokens_;
    std::deque<uint64_t> order_; // oldest first
};

// The memory of one layer's keys, or values.
struct CacheMemory {
    uintptr_t begin = 0, end = 0;
    size_t cell = 0;              // bytes from cell to cell; 0: values, which tell nothing
    int32_t layer = -1;           // place in the geometry
    const void* buffer = nullptr; // ggml's, of which it is a part: goes when that is freed
    bool operator==(const CacheMemory&) const = default;
};

// The deepest layer of each mask group that has keys of its own: where its keys lie in Frame::k.
struct TellingLayer {
    int32_t layer = -1;
    size_t at = 0, bytes = 0;
};
std::vector<TellingLayer> telling_layers(const Geometry& geometry); // by mask group

} // namespace attnscope::attach
