// 16-bit floating point to float32, exactly, one number at a time.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace attnscope {

inline float bf16_to_float(uint16_t h) {
    return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

// IEEE 754 binary16.
inline float f16_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u;
    const uint32_t fraction = h & 0x3ffu;
    if (exponent == 0) { // zero and subnormal: fraction * 2^-24
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
    }
    // Infinity and NaN keep their all-ones exponent; the others move from bias 15 to bias 127.
    const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

// Element i of an array that need not be aligned.
struct F16Elements {
    static constexpr size_t size = 2;
    static float at(const uint8_t* p, int64_t i) {
        uint16_t h = 0;
        std::memcpy(&h, p + static_cast<size_t>(i) * size, size);
        return f16_to_float(h);
    }
};
struct Bf16Elements {
    static constexpr size_t size = 2;
    static float at(const uint8_t* p, int64_t i) {
        uint16_t h = 0;
        std::memcpy(&h, p + static_cast<size_t>(i) * size, size);
        return bf16_to_float(h);
    }
};
struct F32Elements {
    static constexpr size_t size = 4;
    static float at(const uint8_t* p, int64_t i) {
        float f = 0;
        std::memcpy(&f, p + static_cast<size_t>(i) * size, size);
        return f;
    }
};

} // namespace attnscope
