#include "attach/inside/no_devices.h"

#include "attach/inside/loaded.h"

namespace attnscope::attach {

namespace {

decltype(&::ggml_backend_buft_is_host) is_host = nullptr;
decltype(&::ggml_backend_cpu_buffer_type) cpu_memory = nullptr;
char the_cpu, other;

ggml_backend_dev_t as_device(char& which) {
    return reinterpret_cast<ggml_backend_dev_t>(&which);
}
ggml_backend_dev_t of_memory(ggml_backend_buffer_type_t memory) {
    return as_device(is_host(memory) ? the_cpu : other);
}
ggml_backend_dev_t by_type(enum ggml_backend_dev_type) {
    return as_device(the_cpu);
}
enum ggml_backend_dev_type type(ggml_backend_dev_t device) {
    return device == as_device(the_cpu) ? GGML_BACKEND_DEVICE_TYPE_CPU : GGML_BACKEND_DEVICE_TYPE_GPU;
}
ggml_backend_buffer_type_t memory_of(ggml_backend_dev_t) {
    return cpu_memory();
}
bool supports(ggml_backend_dev_t, const ggml_tensor*) {
    return true;
}

// Programs that are linked with a CPU's ggml alone have no registry of devices to be asked.
decltype(&::ggml_backend_reg_dev_get) registered = nullptr;
ggml_backend_reg_t (*cpu_registry)() = nullptr;
ggml_backend_dev_t only_cpu(enum ggml_backend_dev_type) {
    return registered(cpu_registry(), 0);
}

} // namespace

bool answer_for_registry(link_map* caller, capture::GgmlAbi& abi) {
    registered = reinterpret_cast<decltype(registered)>(find_function(caller, "ggml_backend_reg_dev_get"));
    cpu_registry = reinterpret_cast<decltype(cpu_registry)>(find_function(caller, "ggml_backend_cpu_reg"));
    if (!registered || !cpu_registry) return false;
    abi.backend_dev_by_type = only_cpu;
    return true;
}

bool answer_for_devices(link_map* caller, capture::GgmlAbi& abi) {
    const auto host = reinterpret_cast<decltype(is_host)>(find_function(caller, "ggml_backend_buft_is_host"));
    const auto cpu = reinterpret_cast<decltype(cpu_memory)>(find_function(caller, "ggml_backend_cpu_buffer_type"));
    if (!host || !cpu) return false;
    answer_for_devices(host, cpu, abi);
    return true;
}

void answer_for_devices(decltype(is_host) host, decltype(cpu_memory) cpu, capture::GgmlAbi& abi) {
    is_host = host, cpu_memory = cpu;
    abi.backend_buft_get_device = of_memory;
    abi.backend_dev_by_type = by_type;
    abi.backend_dev_type = type;
    abi.backend_dev_buffer_type = memory_of;
    abi.backend_dev_supports_op = supports;
    abi.device_type_cpu = GGML_BACKEND_DEVICE_TYPE_CPU;
}

} // namespace attnscope::attach
