#include "attention/engine_arithmetic.h"

#include "attention/kernels/halves_f16c.h"
#include "base/halves.h"

#include <array>
#include <cstring>
#include <mutex>

namespace attnscope::attention {

#if !defined(ATTNSCOPE_FOREIGN_GGML)

// ggml looks half-precision numbers up in tables that this fills.
void start_engine_arithmetic() {
    static std::once_flag once;
    std::call_once(once, ggml_cpu_init);
}

void f16_to_f32(const uint16_t* from, float* to, int64_t n) {
    start_engine_arithmetic();
    ggml_cpu_fp16_to_fp32(from, to, n);
}
void bf16_to_f32(const uint16_t* from, float* to, int64_t n) {
    start_engine_arithmetic();
    const void* halves = from;
    ggml_cpu_bf16_to_fp32(static_cast<const ggml_bf16_t*>(halves), to, n);
}
void f32_to_f16(const float* from, uint16_t* to, int64_t n) {
    start_engine_arithmetic();
    ggml_cpu_fp32_to_fp16(from, to, n);
}
void f32_to_bf16(const float* from, uint16_t* to, int64_t n) {
    start_engine_arithmetic();
    void* halves = to;
    ggml_cpu_fp32_to_bf16(from, static_cast<ggml_bf16_t*>(halves), n);
}

#else

namespace {

// What the engine calls with bytes of halves.
void halves_from_floats(const float* from, void* to, int64_t n) {
    f32_to_f16(from, static_cast<uint16_t*>(to), n);
}
void halves_to_floats(const void* from, float* to, int64_t n) {
    f16_to_f32(static_cast<const uint16_t*>(from), to, n);
}
void bfloats_from_floats(const float* from, void* to, int64_t n) {
    f32_to_bf16(from, static_cast<uint16_t*>(to), n);
}
void bfloats_to_floats(const void* from, float* to, int64_t n) {
    bf16_to_f32(static_cast<const uint16_t*>(from), to, n);
}
void copy_to_floats(const void* from, float* to, int64_t n) {
    std::memcpy(to, from, size_t(n) * sizeof(float));
}
void copy_from_floats(const float* from, void* to, int64_t n) {
    std::memcpy(to, from, size_t(n) * sizeof(float));
}

constexpr size_t n_types = 64;

// vec_dot_type as in ggml-cpu.c.
std::array<TypeArithmetic, n_types> without_engine() {
    std::array<TypeArithmetic, n_types> all{};
    const auto at = [&](DType type) -> TypeArithmetic& { return all[static_cast<size_t>(type)]; };
    at(DType::f32) = {copy_from_floats, copy_to_floats, nullptr, DType::f32};
    at(DType::f16) = {halves_from_floats, halves_to_floats, nullptr, DType::f16};
    at(DType::bf16) = {bfloats_from_floats, bfloats_to_floats, nullptr, DType::bf16};
    for (const DType type : {DType::q4_0, DType::q5_0, DType::q8_0, DType::iq4_nl}) at(type).vec_dot_type = DType::q8_0;
    for (const DType type : {DType::q4_1, DType::q5_1, DType::q8_1}) at(type).vec_dot_type = DType::q8_1;
    return all;
}

} // namespace

TypeArithmetic& foreign_arithmetic(DType type) {
    static std::array<TypeArithmetic, n_types> all = without_engine();
    return all[static_cast<size_t>(type) % n_types];
}

void start_engine_arithmetic() {}

void f16_to_f32(const uint16_t* from, float* to, int64_t n) {
    static const ReadF16 read = read_f16_by_instruction();
    if (read) return read(from, to, n);
    for (int64_t i = 0; i < n; ++i) to[i] = base::f16_to_float(from[i]);
}
void bf16_to_f32(const uint16_t* from, float* to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[i] = base::bf16_to_float(from[i]);
}
void f32_to_f16(const float* from, uint16_t* to, int64_t n) {
    static const WriteF16 write = write_f16_by_instruction();
    if (write) return write(from, to, n);
    for (int64_t i = 0; i < n; ++i) to[i] = base::float_to_f16(from[i]);
}
void f32_to_bf16(const float* from, uint16_t* to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[i] = base::float_to_bf16(from[i]);
}

#endif

} // namespace attnscope::attention
