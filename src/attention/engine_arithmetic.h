// The engine's own arithmetic of element types: its dot products and conversions, which are ggml's.
//
// In our own programs they are called where they are linked. With ATTNSCOPE_FOREIGN_GGML (capture/graph/ggml_abi.h) nothing is
// linked: types of 16 and 32 bits are converted here, and what else the program has is put into foreign_arithmetic().
#pragma once

#include <attnscope/types.h>

#include <cstddef>
#include <cstdint>

#if !defined(ATTNSCOPE_FOREIGN_GGML)
#include <ggml-cpu.h>
#include <ggml.h>
#endif

namespace attnscope::attention {

// Of one element type; null: there is none. Signatures as ggml's.
struct TypeArithmetic {
    void (*from_float)(const float* from, void* to, int64_t n) = nullptr; // as the engine's CPU kernels convert queries
    void (*to_float)(const void* from, float* to, int64_t n) = nullptr;
    void (*vec_dot)(int n, float* sum, size_t, const void* x, size_t, const void* y, size_t, int) = nullptr;
    DType vec_dot_type = DType::f32; // what keys of this type are multiplied with
};

#if defined(ATTNSCOPE_FOREIGN_GGML)

// Starts with what needs no engine. Whatever is added must be there before anything is computed. The type must be known.
TypeArithmetic& foreign_arithmetic(DType type);
inline const TypeArithmetic& engine_arithmetic(DType type) {
    return foreign_arithmetic(type);
}

#else

// The type must be known (dtype_known).
inline TypeArithmetic engine_arithmetic(DType type) {
    const auto number = static_cast<ggml_type>(type);
    const ggml_type_traits_cpu* cpu = ggml_get_type_traits_cpu(number);
    return {cpu->from_float, ggml_get_type_traits(number)->to_float, cpu->vec_dot,
            static_cast<DType>(cpu->vec_dot_type)};
}

#endif

// Makes ready what the functions look up.
void start_engine_arithmetic();
// `n` elements, exactly; from float32 to the nearest, ties to even.
void f16_to_f32(const uint16_t* from, float* to, int64_t n);
void bf16_to_f32(const uint16_t* from, float* to, int64_t n);
void f32_to_f16(const float* from, uint16_t* to, int64_t n);
void f32_to_bf16(const float* from, uint16_t* to, int64_t n);

} // namespace attnscope::attention
