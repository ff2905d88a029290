#include "attach/inside/host_ggml.h"

#include "attach/inside/loaded.h"

// X(name, needed): needed by layers in host memory, whatever else there is.
#define ATTNSCOPE_HOST_FUNCTIONS(X)                                                                                    \
    X(ggml_are_same_shape, 1)                                                                                          \
    X(ggml_backend_buffer_free, 1)                                                                                     \
    X(ggml_backend_buffer_get_base, 1)                                                                                 \
    X(ggml_backend_buffer_get_size, 1) X(ggml_backend_buffer_get_type, 1) X(ggml_backend_buffer_get_usage, 1) X(       \
        ggml_backend_buffer_is_host, 1) X(ggml_backend_buft_alloc_buffer, 1) X(ggml_backend_buft_get_alignment, 1)     \
        X(ggml_backend_buft_get_alloc_size, 1) X(ggml_backend_buft_get_device, 1) X(ggml_backend_dev_backend_reg, 1)   \
            X(ggml_backend_dev_buffer_type, 1) X(ggml_backend_dev_by_type, 1) X(ggml_backend_dev_supports_op, 1)       \
                X(ggml_backend_dev_type, 1) X(ggml_backend_reg_name, 1) X(ggml_backend_sched_synchronize, 1) X(        \
                    ggml_backend_tensor_alloc, 1) X(ggml_backend_tensor_get, 1) X(ggml_blck_size, 1)                   \
                    X(ggml_cpu_bf16_to_fp32, 1) X(ggml_cpu_fp16_to_fp32, 1) X(ggml_cpu_fp32_to_bf16, 1) X(             \
                        ggml_cpu_fp32_to_fp16, 1) X(ggml_cpu_init, 1) X(ggml_fp16_to_fp32, 1) X(ggml_free, 1)          \
                        X(ggml_get_type_traits, 1) X(ggml_get_type_traits_cpu, 1) X(ggml_get_unary_op,                 \
                                                                                    1) X(ggml_graph_n_nodes, 1)        \
                            X(ggml_graph_node, 1) X(ggml_graph_nodes, 1) X(ggml_init, 1) X(ggml_is_contiguous, 1)      \
                                X(ggml_nbytes, 1) X(ggml_nelements, 1) X(ggml_new_tensor_1d, 1) X(ggml_row_size, 1) X( \
                                    ggml_set_output,                                                                   \
                                    1) X(ggml_tensor_overhead, 1)                                                      \
                                    X(ggml_type_name, 1) X(ggml_type_size, 1) X(ggml_add, 0) X(ggml_add_inplace, 0) X( \
                                        ggml_backend_dev_host_buffer_type,                                             \
                                        0) X(ggml_backend_dev_init, 0)                                                 \
                                        X(ggml_backend_dev_get_props, 0) X(ggml_backend_dev_name, 0) X(                \
                                            ggml_backend_event_free,                                                   \
                                            0) X(ggml_backend_event_new,                                               \
                                                 0) X(ggml_backend_event_record, 0)                                    \
                                            X(ggml_backend_event_synchronize, 0) X(ggml_backend_event_wait, 0) X(      \
                                                ggml_backend_free,                                                     \
                                                0) X(ggml_backend_get_device,                                          \
                                                     0) X(ggml_backend_graph_compute_async, 0)                         \
                                                X(ggml_backend_sched_get_backend,                                      \
                                                  0) X(ggml_backend_sched_get_n_backends, 0)                           \
                                                    X(ggml_backend_supports_op, 0) X(ggml_backend_synchronize, 0) X(   \
                                                        ggml_backend_tensor_copy_async,                                \
                                                        0) X(ggml_backend_tensor_get_2d,                               \
                                                             0) X(ggml_backend_tensor_get_2d_async, 0)                 \
                                                        X(ggml_backend_tensor_get_async, 0) X(                         \
                                                            ggml_backend_tensor_set_async,                             \
                                                            0) X(ggml_backend_view_init,                               \
                                                                 0) X(ggml_build_forward_expand, 0) X(ggml_cont, 0)    \
                                                            X(ggml_cpy, 0) X(ggml_custom_4d, 0)                        \
                                                                X(ggml_gallocr_alloc_graph, 0) X(ggml_gallocr_free, 0) \
                                                                    X(ggml_gallocr_new, 0) X(ggml_get_rows, 0) X(      \
                                                                        ggml_graph_overhead_custom, 0)                 \
                                                                        X(ggml_graph_size, 0) X(ggml_mul_mat, 0) X(    \
                                                                            ggml_new_graph_custom,                     \
                                                                            0) X(ggml_new_tensor_2d,                   \
                                                                                 0) X(ggml_new_tensor_3d, 0)           \
                                                                            X(ggml_out_prod,                           \
                                                                              0) X(ggml_prec_set_acc,                  \
                                                                                   0) X(ggml_reshape_2d, 0)            \
                                                                                X(ggml_reshape_3d, 0) X(ggml_scale, 0) \
                                                                                    X(ggml_set_input,                  \
                                                                                      0) X(ggml_soft_max_add_sinks, 0) \
                                                                                        X(ggml_soft_max_ext_inplace,   \
                                                                                          0) X(ggml_tanh, 0)           \
                                                                                            X(ggml_transpose, 0)       \
                                                                                                X(ggml_view_3d, 0)

#if defined(__x86_64__)
#define ATTNSCOPE_JUMP(slot) "    jmp *" slot "(%rip)\n"
#elif defined(__aarch64__)
#define ATTNSCOPE_JUMP(slot) "    adrp x16, " slot "\n    ldr x16, [x16, :lo12:" slot "]\n    br x16\n"
#else
#error "attach knows x86-64 and AArch64"
#endif

// Hidden: the program's own ggml is not disturbed by names of ours.
#define ATTNSCOPE_TRAMPOLINE(name, needed)                                                                             \
    extern "C" __attribute__((visibility("hidden"))) void* attnscope_slot_##name;                                      \
    void* attnscope_slot_##name = nullptr;                                                                             \
    asm(".pushsection .text\n.globl " #name "\n.hidden " #name "\n.type " #name ", %function\n" #name                  \
        ":\n" ATTNSCOPE_JUMP("attnscope_slot_" #name) ".size " #name ", .-" #name "\n.popsection\n");
ATTNSCOPE_HOST_FUNCTIONS(ATTNSCOPE_TRAMPOLINE)

namespace attnscope::attach {

namespace {

struct Slot {
    const char* name;
    void** function;
    bool needed;
};

#define ATTNSCOPE_SLOT(name, needed) {#name, &attnscope_slot_##name, (needed) != 0},
constexpr Slot slots[] = {ATTNSCOPE_HOST_FUNCTIONS(ATTNSCOPE_SLOT)};

} // namespace

std::string connect_ggml(link_map* caller) {
    for (const Slot& slot : slots) {
        *slot.function = find_function(caller, slot.name);
        if (!*slot.function && slot.needed) {
            return std::string("its ggml has no function ") + slot.name + " that can be found";
        }
    }
    return {};
}

bool devices_connected() {
    for (const Slot& slot : slots) {
        if (!*slot.function) return false;
    }
    return true;
}

} // namespace attnscope::attach
