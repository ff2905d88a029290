// The kernels for V (RowKernels::weigh and read_f16), one set per instruction set. Callable only where that set exists.
#pragma once

#include "attention/kernels/simd.h"

namespace attnscope::attention {

#if defined(__x86_64__)
void avx2_weigh(const WeighBlock& block);
void avx2_read_f16(const uint8_t* from, size_t from_stride, int64_t n, int32_t dim, float* to, size_t to_stride);
void avx512_weigh(const WeighBlock& block);
void avx512_read_f16(const uint8_t* from, size_t from_stride, int64_t n, int32_t dim, float* to, size_t to_stride);
#endif

} // namespace attnscope::attention
