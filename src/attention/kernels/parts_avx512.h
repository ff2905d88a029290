// Kernels of part_rows.h for AVX-512, in whichever order of additions is fastest. Callable only where that set exists.
#pragma once

#include "attention/kernels/simd.h"

namespace attnscope::attention {

#if defined(__x86_64__)
// DotTask::any_order. head_dim is a multiple of 16.
void avx512_any_dots_f16(const DotTask& task);
void avx512_any_dots_bf16(const DotTask& task);
void avx512_any_dots_f32(const DotTask& task);
// RowKernels
double avx512_numerators(float* x, int64_t n, float scale, float* max);
// RowKernels
void avx512_add_rows(const float* rows, size_t stride, const float* factors, int32_t n_rows, int64_t n, double* sums);
#endif

} // namespace attnscope::attention
