// What capture/ reads of ggml without calling it: operations by number, types, and fields of a tensor by offset.
//
// Here the table is filled from ggml's headers: constants, which the compiler puts where they are used. Inside a program with
// another ggml the same numbers are found by looking (ATTNSCOPE_GGML_PROBED: the table is then a variable that a probe fills), and
// the same code reads its graphs. A tensor's fields are read through `abi` and by no other way, so that no file knows an offset.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace attnscope::capture {

struct GgmlAbi {
    struct Ops { // enum ggml_op
        int32_t none = GGML_OP_NONE, view = GGML_OP_VIEW, reshape = GGML_OP_RESHAPE, permute = GGML_OP_PERMUTE,
                transpose = GGML_OP_TRANSPOSE;
        int32_t add = GGML_OP_ADD, scale = GGML_OP_SCALE, cpy = GGML_OP_CPY, unary = GGML_OP_UNARY, mul_mat = GGML_OP_MUL_MAT;
        int32_t rope = GGML_OP_ROPE, set_rows = GGML_OP_SET_ROWS, soft_max = GGML_OP_SOFT_MAX, flash_attn_ext = GGML_OP_FLASH_ATTN_EXT;
    } ops;
    struct Types { // enum ggml_type; those of a cache are part of the file format (DType) and the same everywhere
        int32_t f32 = GGML_TYPE_F32, f16 = GGML_TYPE_F16;
    } types;
    int32_t unary_tanh = GGML_UNARY_OP_TANH;
    struct Offsets { // bytes into a tensor
        size_t type = offsetof(ggml_tensor, type), buffer = offsetof(ggml_tensor, buffer), ne = offsetof(ggml_tensor, ne),
               nb = offsetof(ggml_tensor, nb), op = offsetof(ggml_tensor, op), op_params = offsetof(ggml_tensor, op_params),
               src = offsetof(ggml_tensor, src), view_src = offsetof(ggml_tensor, view_src), view_offs = offsetof(ggml_tensor, view_offs),
               data = offsetof(ggml_tensor, data), name = offsetof(ggml_tensor, name);
    } at;
    int32_t n_src = GGML_MAX_SRC; // of any tensor

    ggml_type type(const ggml_tensor* t) const { return read<ggml_type>(t, at.type); }
    int32_t op(const ggml_tensor* t) const { return read<int32_t>(t, at.op); }
    int64_t ne(const ggml_tensor* t, int i) const { return read<int64_t>(t, at.ne + size_t(i) * sizeof(int64_t)); }
    size_t nb(const ggml_tensor* t, int i) const { return read<size_t>(t, at.nb + size_t(i) * sizeof(size_t)); } // bytes
    ggml_tensor* src(const ggml_tensor* t, int i) const { return read<ggml_tensor*>(t, at.src + size_t(i) * sizeof(void*)); }
    ggml_tensor* view_src(const ggml_tensor* t) const { return read<ggml_tensor*>(t, at.view_src); } // null: it has memory of its own
    size_t view_offs(const ggml_tensor* t) const { return read<size_t>(t, at.view_offs); }
    ggml_backend_buffer* buffer(const ggml_tensor* t) const { return read<ggml_backend_buffer*>(t, at.buffer); }
    uint8_t* data(const ggml_tensor* t) const { return read<uint8_t*>(t, at.data); }
    const char* name(const ggml_tensor* t) const { return bytes(t) + at.name; }
    template <typename T> T param(const ggml_tensor* t, int i) const { // the i-th of 32 bits
        static_assert(sizeof(T) == sizeof(int32_t));
        return read<T>(t, at.op_params + size_t(i) * sizeof(int32_t));
    }

private:
    static const char* bytes(const ggml_tensor* t) { return static_cast<const char*>(static_cast<const void*>(t)); }
    template <typename T> static T read(const ggml_tensor* t, size_t offset) {
        T value;
        std::memcpy(&value, bytes(t) + offset, sizeof value);
        return value;
    }
};
static_assert(sizeof(ggml_op) == sizeof(int32_t) && sizeof(ggml_type) == sizeof(int32_t));

#ifdef ATTNSCOPE_GGML_PROBED
extern GgmlAbi abi;
#else
inline constexpr GgmlAbi abi;
#endif

} // namespace attnscope::capture
