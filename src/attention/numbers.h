// Elements of arrays of floating point numbers, as float32.
#pragma once

#include "base/halves.h"

#include <cstdint>
#include <cstring>

namespace attnscope::attention {

using base::bf16_to_float;
using base::f16_to_float;

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

} // namespace attnscope::attention
