// ggml's structures for memory and back ends, for programs whose ggml has no function that could be called by its name. What is here
// is the same in all versions since December 2024; what is not is found, or refused.
#pragma once

#include "capture/graph/ggml_abi.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace attnscope::attach {

struct Device;
struct Registry;

struct BufferType { // ggml_backend_buffer_type
    const char* (*get_name)(BufferType*);
    ggml_backend_buffer_t (*alloc_buffer)(BufferType*, size_t);
    size_t (*get_alignment)(BufferType*);
    size_t (*get_max_size)(BufferType*);
    size_t (*get_alloc_size)(BufferType*, const ggml_tensor*);
    bool (*is_host)(BufferType*);
    Device* device;
    void* context;
};

struct Device { // ggml_backend_device
    const char* (*get_name)(Device*);
    const char* (*get_description)(Device*);
    void (*get_memory)(Device*, size_t*, size_t*);
    int (*get_type)(Device*);
    void (*get_props)(Device*, void*);
    void* (*init_backend)(Device*, const char*);
    BufferType* (*get_buffer_type)(Device*);
    BufferType* (*get_host_buffer_type)(Device*);
    ggml_backend_buffer_t (*buffer_from_host_ptr)(Device*, void*, size_t, size_t);
    bool (*supports_op)(Device*, const ggml_tensor*);
    bool (*supports_buft)(Device*, BufferType*);
    bool (*offload_op)(Device*, const ggml_tensor*);
    void* (*event_new)(Device*);
    void (*event_free)(Device*, void*);
    void (*event_synchronize)(Device*, void*);
    Registry* registry;
    void* context;
};

struct Registry { // ggml_backend_reg
    int api_version;
    const char* (*get_name)(Registry*);
    size_t (*get_device_count)(Registry*);
    Device* (*get_device)(Registry*, size_t);
    void* (*get_proc_address)(Registry*, const char*);
    void* context;
};

// The beginning of ggml_backend_dev_props; who asks has set all of it to zero.
struct DeviceProperties {
    const char* name;
    const char* description;
    size_t memory_free, memory_total;
    int type;
};

// A ggml_backend_buffer is a table of functions, and these behind it. The table has grown once, in its middle.
struct BufferTail {
    BufferType* type;
    void* context;
    size_t size;
    int32_t usage;
};
constexpr std::array<size_t, 2> buffer_functions = {9, 11}; // until March 2026, and since
constexpr size_t most_buffer_words = 11 + sizeof(BufferTail) / sizeof(void*);
// Those at its beginning that never moved.
struct BufferHead {
    void (*free_buffer)(ggml_backend_buffer_t);
    void* (*get_base)(ggml_backend_buffer_t);
    void* init_tensor;
    void* memset_tensor;
    void* set_tensor;
    void (*get_tensor)(ggml_backend_buffer_t, const ggml_tensor*, void*, size_t, size_t);
};

// ggml_tensor since November 2024: ggml has loaded back ends of others since January 2025.
constexpr capture::GgmlTensorLayout tensor_layout = {.type = 0,
                                                     .buffer = 8,
                                                     .ne = 16,
                                                     .nb = 48,
                                                     .op = 80,
                                                     .op_params = 84,
                                                     .flags = 148,
                                                     .src = 152,
                                                     .n_src = 10,
                                                     .view_src = 232,
                                                     .view_offs = 240,
                                                     .data = 248,
                                                     .name = 256,
                                                     .size = 336};
// Bits of its flags.
constexpr int32_t flag_input = 1, flag_output = 2, flag_compute = 16;

} // namespace attnscope::attach
