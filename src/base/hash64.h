// XXH3's 64 bits of some bytes: the same on every machine, by the widest registers that this one has.
#pragma once

#include <cstdint>
#include <span>

namespace attnscope::base {

uint64_t hash64(std::span<const uint8_t> bytes, uint64_t seed = 0);

using Hash64 = uint64_t (*)(const uint8_t* bytes, size_t n, uint64_t seed);
uint64_t hash64_plain(const uint8_t* bytes, size_t n, uint64_t seed);
// Null: this processor, or what the source was built for, has no AVX2.
Hash64 hash64_avx2();

} // namespace attnscope::base
