// The kernels of RowKernels that work on one row of numbers. Callable only where the instruction set exists.
#pragma once

#include <cstdint>

namespace attnscope::attention {

#if defined(__x86_64__)
float avx2_scores(float* x, int64_t n, float scale, float softcap, float post_scale);
double avx2_exponentials(float* x, int64_t n, float max);
void avx2_multiply(float* x, int64_t n, float factor);
double avx2_entropy(const float* p, int64_t n);
void avx2_add(float* sum, const float* x, int64_t n);
void avx2_largest(float* max, const float* x, int64_t n);
#endif

} // namespace attnscope::attention
