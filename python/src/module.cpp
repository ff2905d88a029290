// attnscope._core: the library for the Python in attnscope/. Nothing here is meant to be called directly.
#include "bindings.h"
#include "errors.h"
#include "recording_pool.h"

#include <attnscope/rows.h>

#include <ggml-cpu.h>

#include <nanobind/stl/string.h>

namespace nb = nanobind;
using namespace attnscope;

namespace {

// The engine's libraries are compiled for the machine that built the wheel. Elsewhere this is a sentence, not an illegal
// instruction. Empty: nothing is missing.
std::string missing_instructions() {
#if defined(__x86_64__)
    std::string missing;
    const auto need = [&](int compiled, bool here, const char* name) {
        if (compiled && !here) missing += std::string(missing.empty() ? "" : ", ") + name;
    };
    need(ggml_cpu_has_avx(), __builtin_cpu_supports("avx"), "AVX");
    need(ggml_cpu_has_avx2(), __builtin_cpu_supports("avx2"), "AVX2");
    need(ggml_cpu_has_fma(), __builtin_cpu_supports("fma"), "FMA");
    need(ggml_cpu_has_bmi2(), __builtin_cpu_supports("bmi2"), "BMI2");
    need(ggml_cpu_has_avx512(), __builtin_cpu_supports("avx512f"), "AVX-512");
    need(ggml_cpu_has_avx512_vbmi(), __builtin_cpu_supports("avx512vbmi"), "AVX-512 VBMI");
    need(ggml_cpu_has_avx512_vnni(), __builtin_cpu_supports("avx512vnni"), "AVX-512 VNNI");
    need(ggml_cpu_has_avx512_bf16(), __builtin_cpu_supports("avx512bf16"), "AVX-512 BF16");
    return missing;
#else
    return {};
#endif
}

} // namespace

NB_MODULE(_core, m) {
    if (const std::string missing = missing_instructions(); !missing.empty()) {
        throw nb::import_error(("this attnscope was built for processors with " + missing +
                                ", which this one has not; build it here: pip install --no-binary attnscope .")
                                   .c_str());
    }
    nb::set_leak_warnings(false); // what somebody still holds when Python ends is freed with the process
    python::bind_errors(m);
    python::bind_geometry(m);
    python::bind_recording(m);
    python::bind_answer(m);
    python::bind_scores(m);
    python::bind_diagnose(m);
    python::bind_page(m);
    python::bind_session(m);
    m.def("simd", &attention_simd_name, "The kernels in use: 'avx512', 'avx2' or 'scalar'.");
    m.def("n_threads", &python::n_threads, "How many threads compute rows, answers and maps: attnscope.set_threads.");
    m.def("set_threads", &python::set_threads, nb::arg("n"));
}
