// Sixteen elements of keys as float32 in a register.
#pragma once

#include "attention/numbers.h"

#include <immintrin.h>

namespace attnscope::attention {

#define ATTNSCOPE_KEYS_INLINE __attribute__((target("avx512f,avx2,fma,f16c"), always_inline)) inline

namespace {

ATTNSCOPE_KEYS_INLINE __m256i load_256(const uint8_t* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(static_cast<const void*>(p)));
}
struct F16Keys : F16Elements {
    static ATTNSCOPE_KEYS_INLINE __m512 load(const uint8_t* p) { return _mm512_cvtph_ps(load_256(p)); }
};
struct Bf16Keys : Bf16Elements {
    static ATTNSCOPE_KEYS_INLINE __m512 load(const uint8_t* p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16));
    }
};
struct F32Keys : F32Elements {
    static ATTNSCOPE_KEYS_INLINE __m512 load(const uint8_t* p) { return _mm512_loadu_ps(p); }
};

} // namespace

#undef ATTNSCOPE_KEYS_INLINE

} // namespace attnscope::attention
