// Which kernels to use: those that give the engine's own numbers, found by asking the engine.
#include "attention/kernels/simd.h"
#include "attention/engine_arithmetic.h"
#include "attention/numbers.h"

#include <array>
#include <bit>
#include <mutex>
#include <vector>

namespace attnscope {

using namespace attention;

namespace {

constexpr int32_t probe_dim = 256;

// Numbers between -2 and 2 that float32, f16 and bf16 all hold exactly, so that one list serves every type. Their
// products differ in size, so sums in different orders differ in the last digits.
std::vector<float> probe_numbers(uint32_t seed, size_t n) {
    std::vector<float> x(n);
    for (float& v : x) {
        seed = seed * 1664525u + 1013904223u; // Numerical Recipes' generator
        const auto significand = static_cast<float>(128 + (seed >> 25));
        v = (seed & 0x1000000 ? -significand : significand) * (seed & 0x800000 ? 0x1p-7f : 0x1p-10f);
    }
    return x;
}

std::vector<uint8_t> to_bytes(const std::vector<float>& x, DType type) {
    std::vector<uint8_t> bytes(x.size() * dtype_row_bytes(type, 1));
    void* to = bytes.data();
    const auto n = static_cast<int64_t>(x.size());
    if (type == DType::f16) {
        f32_to_f16(x.data(), static_cast<uint16_t*>(to), n);
    } else if (type == DType::bf16) {
        f32_to_bf16(x.data(), static_cast<uint16_t*>(to), n);
    } else {
        std::copy(x.begin(), x.end(), static_cast<float*>(to));
    }
    return bytes;
}

// Sixteen dot products of probe_dim elements: the chance that another order gives the same bits in all is small, as each
// alone differs more often than not.
bool same_bits(const RowKernels& kernels, DType type) {
    constexpr size_t n_keys = 16;
    start_engine_arithmetic();
    const auto vec_dot = engine_arithmetic(type).vec_dot;
    if (!vec_dot) return false;
    struct alignas(64) Query {
        std::array<float, probe_dim> x;
    };
    const std::vector<float> q = probe_numbers(1, probe_dim);
    Query query;
    std::copy(q.begin(), q.end(), query.x.begin());
    const std::vector<uint8_t> q_bytes = to_bytes(q, type);
    const std::vector<uint8_t> k = to_bytes(probe_numbers(2, n_keys * probe_dim), type);
    const size_t row = dtype_row_bytes(type, probe_dim);
    std::array<float, n_keys> ours{};
    const DotTask task{query.x.data(), probe_dim, 1, probe_dim, k.data(), row, n_keys, ours.data(), n_keys, false};
    (type == DType::f16 ? kernels.dots_f16 : type == DType::bf16 ? kernels.dots_bf16 : kernels.dots_f32)(task);
    for (size_t i = 0; i < n_keys; ++i) {
        float engine = 0;
        vec_dot(probe_dim, &engine, 0, k.data() + i * row, 0, q_bytes.data(), 0, 1);
        if (std::bit_cast<uint32_t>(engine) != std::bit_cast<uint32_t>(ours[i])) return false;
    }
    return true;
}

const RowKernels& choose() {
    const RowKernels* fastest = nullptr;
    for (const RowKernels* kernels : {avx512_kernels(), avx2_kernels()}) {
        if (!kernels) continue;
        if (same_bits(*kernels, DType::f16)) return *kernels;
        if (!fastest) fastest = kernels;
    }
    return fastest ? *fastest : scalar_kernels();
}

} // namespace

const RowKernels& attention::row_kernels() {
    static const RowKernels& chosen = choose();
    return chosen;
}

bool attention::adds_as_engine(DType type, int32_t head_dim) {
    static const bool f16 = same_bits(row_kernels(), DType::f16);
    static const bool bf16 = same_bits(row_kernels(), DType::bf16);
    static const bool f32 = same_bits(row_kernels(), DType::f32);
    // What is left after whole steps of 32 or 64 elements ggml adds in float64 for 16-bit keys, as our kernels do; for f32
    // in whatever way its compiler chose.
    if (type == DType::f32) return f32 && head_dim % 64 == 0;
    return type == DType::f16 ? f16 : type == DType::bf16 && bf16;
}

const char* attention_simd_name() {
    return row_kernels().name;
}

} // namespace attnscope
