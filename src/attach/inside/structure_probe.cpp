#include "attach/inside/structure_probe.h"

#include "attach/inside/loaded.h"
#include "attach/inside/no_devices.h"
#include "attach/inside/operations.h"
#include "attach/inside/seen_graph.h"
#include "attach/inside/structures.h"

#include <attnscope/types.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace attnscope::attach {

namespace {

// Of the ggml that is in the table: there is one a process.
size_t tail_at = 0; // where a buffer's functions end, in bytes
BufferType* cpu_memory = nullptr;

constexpr int64_t most_elements = int64_t(1) << 40;

template <typename T> T read(const uint8_t* tensor, size_t at) {
    T value;
    std::memcpy(&value, tensor + at, sizeof value);
    return value;
}

struct Element {
    int32_t type;
    size_t bytes;
};
// Of the types that are no DType but are met in graphs; no number of GGUF's has changed.
constexpr Element others[] = {
    {GGML_TYPE_I8, 1}, {GGML_TYPE_I16, 2}, {GGML_TYPE_I32, 4}, {GGML_TYPE_I64, 8}, {GGML_TYPE_F64, 8}};

int64_t block_of(ggml_type type) {
    return dtype_known(type) ? dtype_block(static_cast<DType>(type)) : 1;
}
// 0: a type of weights, which nothing here is asked of
size_t bytes_of(ggml_type type) {
    if (dtype_known(type)) return dtype_row_bytes(static_cast<DType>(type), block_of(type));
    for (const Element& e : others) {
        if (e.type == static_cast<int32_t>(type)) return e.bytes;
    }
    return 0;
}

// What of a tensor does not lie where it should; null: nothing.
const char* misplaced(const uint8_t* t) {
    constexpr capture::GgmlTensorLayout l = tensor_layout;
    const auto kind = read<int32_t>(t, l.type);
    if (kind < 0 || kind >= 64) return "type";
    int64_t ne[4];
    size_t nb[4];
    std::memcpy(ne, t + l.ne, sizeof ne);
    std::memcpy(nb, t + l.nb, sizeof nb);
    int64_t n = 1;
    for (const int64_t e : ne) {
        if (e < 0 || e > most_elements || (n *= std::max<int64_t>(e, 1)) > most_elements) return "shape";
    }
    const auto type = static_cast<ggml_type>(kind);
    const bool is_view = read<const void*>(t, l.view_src) != nullptr;
    if (!is_view && bytes_of(type) > 0) {
        size_t bytes = bytes_of(type);
        for (size_t i = 0; i < 4; ++i) {
            if (nb[i] != bytes) return "strides";
            bytes *= size_t(i == 0 ? ne[0] / block_of(type) : ne[i]);
        }
    }
    if (read<uint32_t>(t, l.op) >= capture::GgmlAbi::n_ops) return "operation";
    if ((read<uint32_t>(t, l.flags) & ~0xffU) != 0) return "flags";
    if (!std::memchr(t + l.name, 0, l.size - l.name)) return "name";
    if (is_view && read<size_t>(t, l.view_offs) > size_t(most_elements)) return "view's offset";
    return nullptr;
}

// Views lie where they say in what they are views of.
bool views_fit(const uint8_t* t, TensorBytes& bytes) {
    constexpr capture::GgmlTensorLayout l = tensor_layout;
    const auto* owner = read<const ggml_tensor*>(t, l.view_src);
    if (!owner) return true;
    const uint8_t* o = bytes.of(owner);
    if (!o || read<const void*>(o, l.view_src)) return false; // ggml makes views of views views of their owner
    const auto data = read<uintptr_t>(t, l.data), base = read<uintptr_t>(o, l.data);
    return data == 0 || base == 0 || data == base + read<size_t>(t, l.view_offs);
}

template <typename F> bool is_code_of(F* function, link_map* holder) {
    return function && object_of(reinterpret_cast<const void*>(function)) == holder;
}

// Is there a buffer of `n` functions, all of this program's, in whose memory `data` lies? Its type; null: none.
BufferType* type_of_buffer(const void* buffer, size_t n, uintptr_t data, link_map* holder, const CarefulBytes& memory) {
    struct {
        void* functions[most_buffer_words];
    } words{};
    BufferTail tail{};
    BufferType type{};
    const auto* bytes = static_cast<const uint8_t*>(buffer);
    if (!memory.read(bytes, words.functions, n * sizeof(void*)) ||
        !memory.read(bytes + n * sizeof(void*), &tail, sizeof tail) || !memory.read(tail.type, &type, sizeof type))
        return nullptr;
    for (size_t i = 0; i < n; ++i) {
        if (words.functions[i] && !is_code_of(words.functions[i], holder)) return nullptr;
    }
    const auto get_base = reinterpret_cast<void* (*)(ggml_backend_buffer_t)>(words.functions[1]);
    if (!get_base || !is_code_of(type.get_name, holder) || !is_code_of(type.alloc_buffer, holder) ||
        !is_code_of(type.get_alignment, holder) || (type.is_host && !is_code_of(type.is_host, holder)) ||
        tail.usage < 0 || tail.usage > 2)
        return nullptr;
    const auto base =
        reinterpret_cast<uintptr_t>(get_base(reinterpret_cast<ggml_backend_buffer_t>(const_cast<void*>(buffer))));
    return data >= base && data - base < tail.size ? tail.type : nullptr;
}

// The functions that the table has, of structures.

const BufferTail& tail(ggml_backend_buffer_t buffer) {
    return *reinterpret_cast<const BufferTail*>(reinterpret_cast<const uint8_t*>(buffer) + tail_at);
}
const BufferHead& head(ggml_backend_buffer_t buffer) {
    return *reinterpret_cast<const BufferHead*>(buffer);
}
BufferType* as_type(ggml_backend_buffer_type_t type) {
    return reinterpret_cast<BufferType*>(type);
}

int64_t blck_size(ggml_type type) {
    return block_of(type);
}
size_t type_size(ggml_type type) {
    return bytes_of(type);
}
const char* type_name(ggml_type type) {
    return dtype_known(type) ? dtype_name(static_cast<DType>(type)) : "another type";
}
void set_output(ggml_tensor* t) {
    const size_t at = capture::ggml().tensor.flags;
    capture::set_tensor_field(t, at, capture::tensor_field<int32_t>(t, at) | flag_output);
}
bool type_is_host(ggml_backend_buffer_type_t type) {
    return as_type(type)->is_host && as_type(type)->is_host(as_type(type));
}
ggml_backend_buffer_type_t type_of_cpu() {
    return reinterpret_cast<ggml_backend_buffer_type_t>(cpu_memory);
}
bool buffer_is_host(ggml_backend_buffer_t buffer) {
    return type_is_host(reinterpret_cast<ggml_backend_buffer_type_t>(tail(buffer).type));
}
void tensor_get(const ggml_tensor* t, void* to, size_t offset, size_t n) {
    const ggml_backend_buffer_t memory = capture::buffer(capture::view_src(t) ? capture::view_src(t) : t);
    if (!memory || buffer_is_host(memory))
        std::memcpy(to, capture::data(t) + offset, n);
    else
        head(memory).get_tensor(memory, t, to, offset, n);
}
ggml_status tensor_alloc(ggml_backend_buffer_t buffer, ggml_tensor* t, void* at) {
    capture::set_tensor_field(t, capture::ggml().tensor.buffer, buffer);
    capture::set_tensor_field(t, capture::ggml().tensor.data, at);
    return GGML_STATUS_SUCCESS;
}
void buffer_free(ggml_backend_buffer_t buffer) {
    if (buffer && head(buffer).free_buffer)
        head(buffer).free_buffer(buffer); // the structure itself is the program's `new`
}
void* buffer_get_base(ggml_backend_buffer_t buffer) {
    return head(buffer).get_base(buffer);
}
size_t buffer_get_size(ggml_backend_buffer_t buffer) {
    return tail(buffer).size;
}
ggml_backend_buffer_type_t buffer_get_type(ggml_backend_buffer_t buffer) {
    return reinterpret_cast<ggml_backend_buffer_type_t>(tail(buffer).type);
}
enum ggml_backend_buffer_usage buffer_get_usage(ggml_backend_buffer_t buffer) {
    return static_cast<enum ggml_backend_buffer_usage>(tail(buffer).usage);
}
ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t n) {
    return as_type(type)->alloc_buffer(as_type(type), n);
}
size_t get_alignment(ggml_backend_buffer_type_t type) {
    return as_type(type)->get_alignment(as_type(type));
}
size_t get_alloc_size(ggml_backend_buffer_type_t type, const ggml_tensor* t) {
    return as_type(type)->get_alloc_size ? as_type(type)->get_alloc_size(as_type(type), t) : capture::nbytes(t);
}
void synchronize(ggml_backend_sched_t) {} // a CPU is done when its graph is

void fill(capture::GgmlAbi& abi) {
    abi.tensor = tensor_layout;
    abi.unary_tanh = 4;              // operations.cpp: what is taken for one has it
    abi.flag_compute = flag_compute; // in versions that do not mark what runs no tensor has it
    abi.ops[0] = capture::Op::none;
    abi.blck_size = blck_size;
    abi.type_size = type_size;
    abi.type_name = type_name;
    abi.graph_n_nodes = seen_graph_n_nodes;
    abi.graph_nodes = seen_graph_nodes;
    abi.set_output = set_output;
    abi.backend_tensor_get = tensor_get;
    abi.backend_tensor_alloc = tensor_alloc;
    abi.backend_buffer_free = buffer_free;
    abi.backend_buffer_get_base = buffer_get_base;
    abi.backend_buffer_get_size = buffer_get_size;
    abi.backend_buffer_get_type = buffer_get_type;
    abi.backend_buffer_get_usage = buffer_get_usage;
    abi.backend_buffer_is_host = buffer_is_host;
    abi.backend_buft_alloc_buffer = alloc_buffer;
    abi.backend_buft_get_alignment = get_alignment;
    abi.backend_buft_get_alloc_size = get_alloc_size;
    abi.backend_sched_synchronize = synchronize;
    answer_for_devices(type_is_host, type_of_cpu, abi);
}

} // namespace

bool looks_like_last_norm(const ggml_tensor* tensor, CarefulBytes& memory) {
    constexpr capture::GgmlTensorLayout l = tensor_layout;
    const uint8_t* t = memory.of(tensor);
    if (!t) return false;
    const uint8_t* weight = memory.of(read<const ggml_tensor*>(t, l.src + sizeof(void*)));
    if (!weight || !std::memchr(weight + l.name, 0, l.size - l.name)) return false;
    return is_name_of_last_norm(reinterpret_cast<const char*>(weight + l.name));
}

bool looks_like_stored_keys(const ggml_tensor* tensor, CarefulBytes& memory) {
    const uint8_t* t = memory.of(tensor);
    const uint8_t* cache = t ? memory.of(read<const ggml_tensor*>(t, tensor_layout.view_src)) : nullptr;
    return cache && std::strncmp(reinterpret_cast<const char*>(cache + tensor_layout.name), "cache_k", 7) == 0;
}

bool keeps_keys_nowhere(std::span<ggml_tensor* const> asked, CarefulBytes& memory) {
    bool any = false;
    for (const ggml_tensor* tensor : asked) {
        if (!looks_like_stored_keys(tensor, memory)) continue;
        const uint8_t* cache = memory.of(read<const ggml_tensor*>(memory.of(tensor), tensor_layout.view_src));
        if (read<uintptr_t>(cache, tensor_layout.data) != 0) return false;
        any = true;
    }
    return any;
}

Probed probe_structures(link_map* holder, std::span<ggml_tensor* const> asked, size_t n_functions) {
    Probed probed;
    const auto not_found = [&](const char* what) {
        probed.refusal = std::string("where its tensors have their ") + what + " was not found";
        return probed;
    };
    CarefulBytes memory;
    const std::vector<ggml_tensor*> tensors = walk(asked, tensor_layout, memory);
    if (tensors.empty()) return not_found("sources");
    BufferType* of_keys = nullptr;
    for (const ggml_tensor* tensor : tensors) {
        const uint8_t* t = memory.of(tensor);
        if (const char* what = misplaced(t)) return not_found(what);
        if (!views_fit(t, memory)) return not_found("view");
        const auto* buffer = read<const void*>(t, tensor_layout.buffer);
        const auto data = read<uintptr_t>(t, tensor_layout.data);
        if (!buffer || data == 0 || read<const void*>(t, tensor_layout.view_src)) continue;
        // Both ways are tried: where both fitted nobody could say which it is.
        BufferType* type = nullptr;
        size_t n = 0;
        for (const size_t tried : buffer_functions) {
            BufferType* here = n_functions == 0 || tried == n_functions
                                   ? type_of_buffer(buffer, tried, data, holder, memory)
                                   : nullptr;
            if (here && type) return not_found("memory");
            if (here) type = here, n = tried;
        }
        if (!type) return not_found("memory");
        n_functions = n;
        const auto* name = reinterpret_cast<const char*>(t + tensor_layout.name);
        if (!of_keys && std::strncmp(name, "cache_k", 7) == 0) of_keys = type;
    }
    if (!of_keys)
        probed.refusal = "it has no keys in a cache that could be seen";
    else if (!type_is_host(reinterpret_cast<ggml_backend_buffer_type_t>(of_keys)))
        probed.refusal =
            "its keys lie on a device, which is not read in this program (attnscope attach --devices tries)";
    if (!probed.refusal.empty()) return probed;
    tail_at = n_functions * sizeof(void*);
    cpu_memory = of_keys;
    fill(probed.abi);
    probed.by_structure = true;
    return probed;
}

} // namespace attnscope::attach
