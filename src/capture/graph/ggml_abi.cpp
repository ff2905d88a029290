#include "capture/graph/ggml_abi.h"

namespace attnscope::capture {

#if defined(ATTNSCOPE_FOREIGN_GGML)
GgmlAbi foreign_ggml_table;
GgmlAbi& foreign_ggml() {
    return foreign_ggml_table;
}
#endif

size_t nbytes(const ggml_tensor* t) {
    for (size_t i = 0; i < 4; ++i) {
        if (ne(t, i) <= 0) return 0;
    }
    const auto block = size_t(ggml().blck_size(type(t)));
    size_t bytes =
        block == 1 ? ggml().type_size(type(t)) + size_t(ne(t, 0) - 1) * nb(t, 0) : size_t(ne(t, 0)) * nb(t, 0) / block;
    for (size_t i = 1; i < 4; ++i) bytes += size_t(ne(t, i) - 1) * nb(t, i);
    return bytes;
}

bool is_contiguous(const ggml_tensor* t) {
    const int64_t block = ggml().blck_size(type(t));
    size_t next = ggml().type_size(type(t));
    if (ne(t, 0) != block && nb(t, 0) != next) return false;
    next *= size_t(ne(t, 0) / block);
    for (size_t i = 1; i < 4; ++i) {
        if (ne(t, i) == 1) continue;
        if (nb(t, i) != next) return false;
        next *= size_t(ne(t, i));
    }
    return true;
}

bool same_shape(const ggml_tensor* a, const ggml_tensor* b) {
    for (size_t i = 0; i < 4; ++i) {
        if (ne(a, i) != ne(b, i)) return false;
    }
    return true;
}

ggml_backend_dev_caps device_caps(ggml_backend_dev_t device) {
    // Versions put fields before `caps`: room for more of them than any has.
    union {
        ggml_backend_dev_props props;
        char bytes[4 * sizeof(ggml_backend_dev_props)];
    } room{.bytes = {}};
    ggml().backend_dev_get_props(device, &room.props);
    ggml_backend_dev_caps caps{};
    std::memcpy(&caps, room.bytes + ggml().device_caps, sizeof caps);
    return caps;
}

} // namespace attnscope::capture
