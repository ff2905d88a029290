// 16-bit floating point: exactly to float32, and from float32 to the nearest, ties to even. IEEE 754 binary16 ("half") and bfloat16.
// Always inlined: sources compiled for different instruction sets include it.
#pragma once

#include <bit>
#include <cstdint>

namespace attnscope::base {

[[gnu::always_inline]] inline float bf16_to_float(uint16_t h) {
    return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

// Without branches on the exponent, so that loops vectorise: the bits shifted into place, scaled by 2^112 (the exponent's bias moves
// by that much; multiplied, so that numbers below the normal ones come out right), and an exponent of all ones put back.
[[gnu::always_inline]] inline float f16_to_float(uint16_t h) {
    const uint32_t bits = static_cast<uint32_t>(h & 0x7FFFu) << 13;
    uint32_t result = std::bit_cast<uint32_t>(std::bit_cast<float>(bits) * 0x1p112f);
    if ((h & 0x7C00u) == 0x7C00u) result = bits | 0x7F800000u; // infinity, NaN with what it carries
    return std::bit_cast<float>(result | static_cast<uint32_t>(h & 0x8000u) << 16);
}

[[gnu::always_inline]] inline uint16_t float_to_f16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7FFFFFFFu;
    if (rest > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | (rest >> 13 & 0x3FFu)); // NaN, quiet
    if (rest >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7C00u);                        // 2^16 and above
    if (rest < 0x38800000u) { // below the normal ones: counted in steps of 2^-24, the addition rounds
        const float steps = std::bit_cast<float>(rest) + 0.5f;
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(steps) - 0x3F000000u));
    }
    // ties to even; a carry goes into the exponent, and to infinity, as it should
    const uint32_t rounded = rest - 0x38000000u + 0xFFFu + (rest >> 13 & 1u);
    return static_cast<uint16_t>(sign | rounded >> 13);
}

[[gnu::always_inline]] inline uint16_t float_to_bf16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 64u); // NaN, quiet
    return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

} // namespace attnscope::base
