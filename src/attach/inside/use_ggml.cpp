// The program's ggml, once it is known, becomes the one that capture/ and attention/ work with.
#include "attach/inside/loaded.h"
#include "attach/inside/probe.h"
#include "attention/engine_arithmetic.h"

#include <atomic>

namespace attnscope::attach {

namespace {

// ggml_type_traits and ggml_type_traits_cpu, whose fields have been these since they are two (2024-12).
struct Arithmetic {
    const char* name;
    int64_t block, block_interleave;
    size_t size;
    bool quantized;
    void (*to_float)(const void*, float*, int64_t);
};
struct CpuArithmetic {
    void (*from_float)(const float*, void*, int64_t);
    void (*vec_dot)(int, float*, size_t, const void*, size_t, const void*, size_t, int);
    int32_t vec_dot_type;
    int64_t nrows;
};

std::atomic<bool> table_is_filled{false}, by_structure{false};

} // namespace

bool knows_ggml() {
    return table_is_filled.load(std::memory_order_acquire);
}
bool reads_structures() {
    return by_structure.load(std::memory_order_acquire);
}

void use_ggml(link_map* caller, const Probed& probed) {
    capture::foreign_ggml() = probed.abi;
    using Traits = const Arithmetic* (*)(ggml_type);
    using CpuTraits = const CpuArithmetic* (*)(ggml_type);
    using Init = void (*)();
    if (probed.by_structure) { // its arithmetic has no names either: what comes with us must do
        by_structure = true;
        table_is_filled.store(true, std::memory_order_release);
        return;
    }
    if (probed.keeps_queries) attention::foreign_arithmetic(DType::f16).vec_dot_type = DType::f32;
    const auto traits = reinterpret_cast<Traits>(find_function(caller, "ggml_get_type_traits"));
    const auto cpu_traits = reinterpret_cast<CpuTraits>(find_function(caller, "ggml_get_type_traits_cpu"));
    if (const auto init = reinterpret_cast<Init>(find_function(caller, "ggml_cpu_init"))) init();
    for (int32_t number = 0; number < 64; ++number) {
        if (!dtype_known(number)) continue;
        attention::TypeArithmetic& type = attention::foreign_arithmetic(static_cast<DType>(number));
        const auto id = static_cast<ggml_type>(number);
        if (traits && !type.to_float) type.to_float = traits(id)->to_float;
        if (!cpu_traits) continue;
        const CpuArithmetic& cpu = *cpu_traits(id);
        if (!dtype_known(cpu.vec_dot_type) || static_cast<DType>(cpu.vec_dot_type) != type.vec_dot_type) continue;
        if (!type.from_float) type.from_float = cpu.from_float;
        type.vec_dot = cpu.vec_dot;
    }
    table_is_filled.store(true, std::memory_order_release);
}

} // namespace attnscope::attach
