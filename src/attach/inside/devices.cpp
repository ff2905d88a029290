#include "attach/inside/devices.h"

#include "attach/inside/loaded.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace attnscope::attach {

namespace {

// Where ggml_backend_dev_props has `caps`: versions have put fields before it, and more into it, behind these four. Every version says
// of a CPU that it can do nothing of them but take buffers of others. 0: not found.
size_t caps_of_props(const capture::GgmlAbi& abi) {
    const auto cpu = abi.backend_dev_by_type(static_cast<enum ggml_backend_dev_type>(abi.device_type_cpu));
    if (!cpu) return 0;
    constexpr size_t behind_memory = 32;                      // two names and two sizes, since there are devices
    constexpr std::array<uint8_t, 4> of_a_cpu = {0, 0, 1, 0}; // async, host_buffer, buffer_from_host_ptr, events
    union {
        ggml_backend_dev_props props;
        uint8_t bytes[4 * sizeof(ggml_backend_dev_props)]; // room for more fields than any has
    } room{.bytes = {}};
    abi.backend_dev_get_props(cpu, &room.props);
    size_t found = 0;
    for (size_t at = behind_memory; at + of_a_cpu.size() <= sizeof room; at += of_a_cpu.size()) {
        if (std::memcmp(room.bytes + at, of_a_cpu.data(), of_a_cpu.size()) != 0) continue;
        if (found != 0) return 0;
        found = at;
    }
    return found;
}

} // namespace

void find_devices(link_map* caller, capture::GgmlAbi& abi) {
    if (!std::getenv("ATTNSCOPE_ATTACH_DEVICES")) return;
    capture::GgmlAbi with = abi;
    bool all = true;
    const auto find = [&](const char* name, auto& function) {
        function = reinterpret_cast<std::decay_t<decltype(function)>>(find_function(caller, name));
        return function != nullptr;
    };
#define ATTNSCOPE_FIND(name) all = find("ggml_" #name, with.name) && all;
    ATTNSCOPE_GGML_DEVICE_FUNCTIONS(ATTNSCOPE_FIND)
#undef ATTNSCOPE_FIND
    if (!all) return;
    find("ggml_backend_tensor_get_2d_async", with.backend_tensor_get_2d_async);
    with.device_caps = caps_of_props(with);
    if (with.device_caps == 0) return;
    with.has_devices = true;
    abi = with;
}

} // namespace attnscope::attach
