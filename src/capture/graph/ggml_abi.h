// The one table of what the capture reads of ggml: fields of tensors, numbers of operations, functions. No other file
// of this room knows any of them (tests/ggml_table_test.py holds that).
//
// Our own programs take the table from ggml's headers: it is known when they are compiled, and costs nothing.
//
// ATTNSCOPE_FOREIGN_GGML, the library that goes into other programs, fills it at run time (foreign_ggml()) from the
// ggml that it finds there, whose fields and numbers are those of its own version. Such a build links no ggml. From the
// headers it takes the names of types and two kinds of numbers that never changed: those of element types, which GGUF
// files hold, and GGML_STATUS_SUCCESS.
#pragma once

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace attnscope::capture {

// The operations that the capture tells apart.
enum class Op : uint8_t {
    other, // computes something
    none,  // a cache, an input, a weight: no graph computes it
    add,
    scale,
    unary, // is_tanh() says of which kind
    mul_mat,
    cont,
    cpy,
    view,
    reshape,
    permute,
    transpose,
    get_rows,
    set_rows,
    rope,
    soft_max,
    flash_attn_ext,
};

// Where fields of a ggml_tensor lie, in bytes.
struct GgmlTensorLayout {
    size_t type = 0;      // ggml_type
    size_t buffer = 0;    // ggml_backend_buffer*
    size_t ne = 0;        // int64_t[4]
    size_t nb = 0;        // size_t[4]
    size_t op = 0;        // int32_t
    size_t op_params = 0; // int32_t[16]
    size_t flags = 0;     // int32_t
    size_t src = 0;       // ggml_tensor*[n_src]
    size_t n_src = 0;
    size_t view_src = 0;  // ggml_tensor*
    size_t view_offs = 0; // size_t
    size_t data = 0;      // void*
    size_t name = 0;      // char[64]
    size_t size = 0;      // of the whole
};

// What a host without devices is asked: all of it must be there. X(name) stands for ggml_name.
#define ATTNSCOPE_GGML_FUNCTIONS(X)                                                                                    \
    X(blck_size)                                                                                                       \
    X(type_size)                                                                                                       \
    X(type_name)                                                                                                       \
    X(graph_n_nodes)                                                                                                   \
    X(graph_nodes)                                                                                                     \
    X(set_output)                                                                                                      \
    X(backend_tensor_get)                                                                                              \
    X(backend_tensor_alloc)                                                                                            \
    X(backend_buffer_free)                                                                                             \
    X(backend_buffer_get_base)                                                                                         \
    X(backend_buffer_get_size)                                                                                         \
    X(backend_buffer_get_type)                                                                                         \
    X(backend_buffer_get_usage)                                                                                        \
    X(backend_buffer_is_host)                                                                                          \
    X(backend_buft_alloc_buffer)                                                                                       \
    X(backend_buft_get_alignment)                                                                                      \
    X(backend_buft_get_alloc_size)                                                                                     \
    X(backend_buft_get_device)                                                                                         \
    X(backend_dev_by_type)                                                                                             \
    X(backend_dev_type)                                                                                                \
    X(backend_dev_buffer_type)                                                                                         \
    X(backend_dev_supports_op)                                                                                         \
    X(backend_sched_synchronize)

// Asked only where layers lie on devices. A foreign table has all of these or none (null): without them such layers are refused, in
// words.
#define ATTNSCOPE_GGML_DEVICE_FUNCTIONS(X)                                                                             \
    X(init)                                                                                                            \
    X(free)                                                                                                            \
    X(tensor_overhead)                                                                                                 \
    X(graph_overhead_custom)                                                                                           \
    X(new_graph_custom)                                                                                                \
    X(build_forward_expand)                                                                                            \
    X(new_tensor_1d)                                                                                                   \
    X(new_tensor_2d)                                                                                                   \
    X(new_tensor_3d)                                                                                                   \
    X(cpy)                                                                                                             \
    X(get_rows)                                                                                                        \
    X(backend_free)                                                                                                    \
    X(backend_synchronize)                                                                                             \
    X(backend_supports_op)                                                                                             \
    X(backend_view_init)                                                                                               \
    X(backend_graph_compute_async)                                                                                     \
    X(backend_tensor_get_async)                                                                                        \
    X(backend_tensor_set_async)                                                                                        \
    X(backend_tensor_copy_async)                                                                                       \
    X(backend_event_new)                                                                                               \
    X(backend_event_free)                                                                                              \
    X(backend_event_record)                                                                                            \
    X(backend_event_wait)                                                                                              \
    X(backend_event_synchronize)                                                                                       \
    X(backend_get_device)                                                                                              \
    X(backend_dev_name)                                                                                                \
    X(backend_dev_init)                                                                                                \
    X(backend_dev_get_props)                                                                                           \
    X(backend_dev_backend_reg)                                                                                         \
    X(backend_dev_host_buffer_type)                                                                                    \
    X(backend_reg_name)                                                                                                \
    X(backend_sched_get_n_backends)                                                                                    \
    X(backend_sched_get_backend)

// The first makes one transfer of many, and may be missing anywhere; means beside the model and the callback's way in need the others,
// and a foreign table has none of them.
#define ATTNSCOPE_GGML_OTHER_FUNCTIONS(X)                                                                              \
    X(backend_tensor_get_2d_async)                                                                                     \
    X(graph_size)                                                                                                      \
    X(view_3d)                                                                                                         \
    X(reshape_2d)                                                                                                      \
    X(reshape_3d)                                                                                                      \
    X(transpose)                                                                                                       \
    X(cont)                                                                                                            \
    X(add)                                                                                                             \
    X(add_inplace)                                                                                                     \
    X(scale)                                                                                                           \
    X(tanh)                                                                                                            \
    X(mul_mat)                                                                                                         \
    X(out_prod)                                                                                                        \
    X(prec_set_acc)                                                                                                    \
    X(soft_max_ext_inplace)                                                                                            \
    X(soft_max_add_sinks)                                                                                              \
    X(custom_4d)                                                                                                       \
    X(set_input)                                                                                                       \
    X(gallocr_new)                                                                                                     \
    X(gallocr_free)                                                                                                    \
    X(gallocr_alloc_graph)                                                                                             \
    X(backend_tensor_get_2d)

struct GgmlAbi {
    static constexpr size_t n_ops = 256; // no version comes near

    GgmlTensorLayout tensor;
    std::array<Op, n_ops> ops{}; // by ggml's number
    int32_t unary_tanh = -1;     // op_params[0] of a unary operation
    int32_t flag_compute = 0;    // bit of `flags` that marks what runs; 0: this version marks nothing, and all runs
    int32_t device_type_cpu = 0; // ggml_backend_dev_type
    int32_t usage_weights = 1;   // ggml_backend_buffer_usage
    size_t device_caps = 0;      // where ggml_backend_dev_props has `caps`, in bytes
    bool has_devices = false;    // the second list of functions is there
#define ATTNSCOPE_FUNCTION(name) decltype(&::ggml_##name) name = nullptr;
    ATTNSCOPE_GGML_FUNCTIONS(ATTNSCOPE_FUNCTION)
    ATTNSCOPE_GGML_DEVICE_FUNCTIONS(ATTNSCOPE_FUNCTION)
    ATTNSCOPE_GGML_OTHER_FUNCTIONS(ATTNSCOPE_FUNCTION)
#undef ATTNSCOPE_FUNCTION
};

#if defined(ATTNSCOPE_FOREIGN_GGML)

// Zero until somebody fills it, which must happen before anything else of this room is used; then it does not change.
GgmlAbi& foreign_ggml();
extern GgmlAbi foreign_ggml_table;
inline const GgmlAbi& ggml() {
    return foreign_ggml_table;
}
constexpr bool ggml_is_foreign = true;

#else

consteval GgmlAbi ggml_of_headers() {
    GgmlAbi abi;
    abi.tensor = {.type = offsetof(ggml_tensor, type),
                  .buffer = offsetof(ggml_tensor, buffer),
                  .ne = offsetof(ggml_tensor, ne),
                  .nb = offsetof(ggml_tensor, nb),
                  .op = offsetof(ggml_tensor, op),
                  .op_params = offsetof(ggml_tensor, op_params),
                  .flags = offsetof(ggml_tensor, flags),
                  .src = offsetof(ggml_tensor, src),
                  .n_src = GGML_MAX_SRC,
                  .view_src = offsetof(ggml_tensor, view_src),
                  .view_offs = offsetof(ggml_tensor, view_offs),
                  .data = offsetof(ggml_tensor, data),
                  .name = offsetof(ggml_tensor, name),
                  .size = sizeof(ggml_tensor)};
    static_assert(GGML_OP_COUNT <= GgmlAbi::n_ops);
    abi.ops[GGML_OP_NONE] = Op::none;
    abi.ops[GGML_OP_ADD] = Op::add;
    abi.ops[GGML_OP_SCALE] = Op::scale;
    abi.ops[GGML_OP_UNARY] = Op::unary;
    abi.ops[GGML_OP_MUL_MAT] = Op::mul_mat;
    abi.ops[GGML_OP_CONT] = Op::cont;
    abi.ops[GGML_OP_CPY] = Op::cpy;
    abi.ops[GGML_OP_VIEW] = Op::view;
    abi.ops[GGML_OP_RESHAPE] = Op::reshape;
    abi.ops[GGML_OP_PERMUTE] = Op::permute;
    abi.ops[GGML_OP_TRANSPOSE] = Op::transpose;
    abi.ops[GGML_OP_GET_ROWS] = Op::get_rows;
    abi.ops[GGML_OP_SET_ROWS] = Op::set_rows;
    abi.ops[GGML_OP_ROPE] = Op::rope;
    abi.ops[GGML_OP_SOFT_MAX] = Op::soft_max;
    abi.ops[GGML_OP_FLASH_ATTN_EXT] = Op::flash_attn_ext;
    abi.unary_tanh = GGML_UNARY_OP_TANH;
    abi.flag_compute = GGML_TENSOR_FLAG_COMPUTE;
    abi.device_type_cpu = GGML_BACKEND_DEVICE_TYPE_CPU;
    abi.usage_weights = GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
    abi.device_caps = offsetof(ggml_backend_dev_props, caps);
    abi.has_devices = true;
#define ATTNSCOPE_FUNCTION(name) abi.name = &::ggml_##name;
    ATTNSCOPE_GGML_FUNCTIONS(ATTNSCOPE_FUNCTION)
    ATTNSCOPE_GGML_DEVICE_FUNCTIONS(ATTNSCOPE_FUNCTION)
    ATTNSCOPE_GGML_OTHER_FUNCTIONS(ATTNSCOPE_FUNCTION)
#undef ATTNSCOPE_FUNCTION
    return abi;
}
inline constexpr GgmlAbi ggml_table = ggml_of_headers();
constexpr const GgmlAbi& ggml() {
    return ggml_table;
}
constexpr bool ggml_is_foreign = false;

#endif

// What lies `at` bytes into a tensor.
template <typename T> T tensor_field(const ggml_tensor* t, size_t at) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char*>(t) + at, sizeof value);
    return value;
}
template <typename T> void set_tensor_field(ggml_tensor* t, size_t at, T value) {
    std::memcpy(reinterpret_cast<char*>(t) + at, &value, sizeof value);
}

inline ggml_type type(const ggml_tensor* t) {
    return static_cast<ggml_type>(tensor_field<int32_t>(t, ggml().tensor.type));
}
inline int64_t ne(const ggml_tensor* t, size_t i) {
    return tensor_field<int64_t>(t, ggml().tensor.ne + i * sizeof(int64_t));
}
inline size_t nb(const ggml_tensor* t, size_t i) {
    return tensor_field<size_t>(t, ggml().tensor.nb + i * sizeof(size_t));
}
inline void set_nb(ggml_tensor* t, size_t i, size_t bytes) {
    set_tensor_field(t, ggml().tensor.nb + i * sizeof(size_t), bytes);
}
inline Op op(const ggml_tensor* t) {
    const auto number = tensor_field<uint32_t>(t, ggml().tensor.op);
    return number < GgmlAbi::n_ops ? ggml().ops[number] : Op::other;
}
inline int32_t int_param(const ggml_tensor* t, size_t i) {
    return tensor_field<int32_t>(t, ggml().tensor.op_params + i * sizeof(int32_t));
}
inline float float_param(const ggml_tensor* t, size_t i) {
    return tensor_field<float>(t, ggml().tensor.op_params + i * sizeof(float));
}
inline bool is_tanh(const ggml_tensor* t) {
    return op(t) == Op::unary && int_param(t, 0) == ggml().unary_tanh;
}
// Marked to run. Where nothing in a graph is marked, all of it runs.
inline bool is_marked(const ggml_tensor* t) {
    return (tensor_field<int32_t>(t, ggml().tensor.flags) & ggml().flag_compute) != 0;
}
inline ggml_tensor* src(const ggml_tensor* t, size_t i) {
    return tensor_field<ggml_tensor*>(t, ggml().tensor.src + i * sizeof(ggml_tensor*));
}
inline size_t n_src() {
    return ggml().tensor.n_src;
}
inline ggml_tensor* view_src(const ggml_tensor* t) {
    return tensor_field<ggml_tensor*>(t, ggml().tensor.view_src);
}
inline size_t view_offs(const ggml_tensor* t) {
    return tensor_field<size_t>(t, ggml().tensor.view_offs);
}
inline uint8_t* data(const ggml_tensor* t) {
    return tensor_field<uint8_t*>(t, ggml().tensor.data);
}
inline ggml_backend_buffer_t buffer(const ggml_tensor* t) {
    return tensor_field<ggml_backend_buffer_t>(t, ggml().tensor.buffer);
}
inline const char* name(const ggml_tensor* t) {
    return reinterpret_cast<const char*>(t) + ggml().tensor.name;
}

// What ggml computes of these fields, in the same way.
inline int64_t nelements(const ggml_tensor* t) {
    return ne(t, 0) * ne(t, 1) * ne(t, 2) * ne(t, 3);
}
inline size_t row_bytes(ggml_type type, int64_t n) {
    return ggml().type_size(type) * size_t(n) / size_t(ggml().blck_size(type));
}
// One transfer of many pieces at equal distances.
inline bool has_strided_transfers() {
    if constexpr (ggml_is_foreign)
        return ggml().backend_tensor_get_2d_async != nullptr;
    else
        return true;
}
size_t nbytes(const ggml_tensor* t);
bool is_contiguous(const ggml_tensor* t);
bool same_shape(const ggml_tensor* a, const ggml_tensor* b);
ggml_backend_dev_caps device_caps(ggml_backend_dev_t device);

// Owners of what ggml makes.
struct FreeGgml {
    void operator()(ggml_backend_buffer* buffer) const { ggml().backend_buffer_free(buffer); }
    void operator()(ggml_context* context) const { ggml().free(context); }
    void operator()(ggml_backend* backend) const { ggml().backend_free(backend); }
    void operator()(ggml_backend_event* event) const { ggml().backend_event_free(event); }
    void operator()(ggml_gallocr* allocator) const { ggml().gallocr_free(allocator); }
};
using BufferPtr = std::unique_ptr<ggml_backend_buffer, FreeGgml>;
using ContextPtr = std::unique_ptr<ggml_context, FreeGgml>;
using BackendPtr = std::unique_ptr<ggml_backend, FreeGgml>;
using EventPtr = std::unique_ptr<ggml_backend_event, FreeGgml>;
using AllocatorPtr = std::unique_ptr<ggml_gallocr, FreeGgml>;

} // namespace attnscope::capture
