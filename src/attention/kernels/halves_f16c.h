// Floats into half-precision numbers and back by the processor's own instructions.
#pragma once

#include <cstdint>

namespace attnscope::attention {

// To the nearest, ties to even, as base::float_to_f16 does bit for bit. Null: this processor has no such instruction.
using WriteF16 = void (*)(const float* from, uint16_t* to, int64_t n);
WriteF16 write_f16_by_instruction();

// As base::f16_to_float, but that NaNs come out quiet. Null as above.
using ReadF16 = void (*)(const uint16_t* from, float* to, int64_t n);
ReadF16 read_f16_by_instruction();

} // namespace attnscope::attention
