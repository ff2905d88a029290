#include "base/hash64.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace attnscope::base {

uint64_t hash64_plain(const uint8_t* bytes, size_t n, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, n, seed);
}

uint64_t hash64(std::span<const uint8_t> bytes, uint64_t seed) {
    static const Hash64 wide = hash64_avx2();
    return wide ? wide(bytes.data(), bytes.size(), seed) : hash64_plain(bytes.data(), bytes.size(), seed);
}

} // namespace attnscope::base
