// Which token's keys lie in a cell that no graph has stored to (a restored state, a prompt cache, a copied stream): told by their
// bytes. The key of a deep layer is made of the whole text before it, so it stands for its place in that text.
#pragma once

#include <attnscope/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

namespace attnscope::attach {

// A token that was captured.
struct KnownToken {
    int64_t line = 0, index = 0;
    int32_t position = 0;
};

// The tokens captured lately, by the keys of one layer. Bounded: the oldest are forgotten. A text that was read twice, in batches of
// other sizes, may have the same key in that layer and other ones elsewhere: both readings are known.
class CacheContents {
public:
    // `all`: what stands for the token's keys of all layers that share its cells (with_key). A line's tokens in their order.
    void remember(std::span<const uint8_t> key, uint64_t all, const KnownToken& token);
    // The tokens whose keys these are, all of them; the latest last.
    std::vector<KnownToken> find(std::span<const uint8_t> key, const std::function<uint64_t()>& all) const;
    // Are these the keys of that token of a line's own?
    bool holds(uint64_t all, int64_t line, int64_t index) const;
    // What stands for the key; 0: no token captured lately has it.
    uint64_t known_as(std::span<const uint8_t> key) const;
    static uint64_t with_key(uint64_t others, std::span<const uint8_t> key);

private:
    struct Reading {
        KnownToken token;
        uint64_t all = 0;
    };
    std::unordered_map<uint64_t, std::vector<Reading>> tokens_; // of one key the latest last
    std::deque<uint64_t> order_;                                // oldest first
    struct Line {
        int64_t first = 0; // index
        std::vector<uint64_t> all;
    };
    std::map<int64_t, Line> lines_;
    size_t n_in_lines_ = 0;
};

// The memory of one layer's keys, or values.
struct CacheMemory {
    uintptr_t begin = 0, end = 0;
    size_t cell = 0;       // bytes from cell to cell; 0: values, which tell nothing
    size_t value_cell = 0; // the same of values; 0: keys
    // Of values that lie by elements, the first of all cells of a stream, then the second ones: bytes from one to the next; 0: by cells
    size_t value_element = 0;
    size_t stream = 0;            // bytes of a stream, of such values
    int32_t layer = -1;           // place in the geometry
    const void* buffer = nullptr; // ggml's, of which it is a part: goes when that is freed
    bool operator==(const CacheMemory&) const = default;
};

// The cells that some of [begin, end), which lies in it, is of; of values by elements perhaps others, too.
Ranges cells_at(const CacheMemory& cache, uintptr_t begin, uintptr_t end);

// Where a layer's keys lie in Frame::k.
struct KeyPlace {
    int32_t layer = -1;
    size_t at = 0, bytes = 0;
};
// The deepest layer of each mask group that has keys of its own, and all of them.
struct TellingLayer : KeyPlace {
    std::vector<KeyPlace> all;
};
std::vector<TellingLayer> telling_layers(const Geometry& geometry); // by mask group

} // namespace attnscope::attach
