#include "attach/inside/probe.h"

#include "attach/inside/call_sites.h"
#include "attach/inside/devices.h"
#include "attach/inside/loaded.h"
#include "attach/inside/no_devices.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace attnscope::attach {

namespace {

using capture::Op;

// Where a ggml_abort of this thread goes while it probes. Everything between is C without destructors.
struct Escape {
    sigjmp_buf to{};
    char text[256] = {};
};
thread_local Escape* escape = nullptr;

struct NamedOp {
    capture::Op op;
    const char* name; // as ggml_op_name has it
};
constexpr NamedOp named_ops[] = {
    {Op::none, "NONE"},
    {Op::add, "ADD"},
    {Op::scale, "SCALE"},
    {Op::unary, "UNARY"},
    {Op::mul_mat, "MUL_MAT"},
    {Op::cont, "CONT"},
    {Op::cpy, "CPY"},
    {Op::view, "VIEW"},
    {Op::reshape, "RESHAPE"},
    {Op::permute, "PERMUTE"},
    {Op::transpose, "TRANSPOSE"},
    {Op::get_rows, "GET_ROWS"},
    {Op::set_rows, "SET_ROWS"},
    {Op::rope, "ROPE"},
    {Op::soft_max, "SOFT_MAX"},
    {Op::flash_attn_ext, "FLASH_ATTN_EXT"},
};

// The functions that the probe calls, by the types that all versions since 2024 share.
// The formatter never comes to rest here.
// clang-format off
#define ATTNSCOPE_PROBE_FUNCTIONS(X)                                                                                   \
    X(init)                                                                                                            \
    X(free)                                                                                                            \
    X(tensor_overhead)                                                                                                 \
    X(graph_overhead)                                                                                                  \
    X(new_tensor_4d)                                                                                                   \
    X(set_name)                                                                                                        \
    X(view_1d)                                                                                                         \
    X(add)                                                                                                             \
    X(scale)                                                                                                           \
    X(tanh)                                                                                                            \
    X(mul_mat)                                                                                                         \
    X(cont) X(cpy) X(reshape_1d) X(permute) X(transpose) X(get_rows) X(rope) X(soft_max_ext) X(flash_attn_ext)         \
        X(set_output) X(new_graph) X(build_forward_expand) X(op_name) X(type_name) X(backend_cpu_buffer_type)          \
            X(backend_buft_alloc_buffer) X(backend_buffer_get_base) X(backend_buffer_free) X(backend_tensor_alloc)
// clang-format on

struct Functions {
#define ATTNSCOPE_MEMBER(name) decltype(&::ggml_##name) name = nullptr;
    ATTNSCOPE_PROBE_FUNCTIONS(ATTNSCOPE_MEMBER)
    ATTNSCOPE_MEMBER(set_rows)                                                         // since 2025-07
    ggml_status (*graph_compute_with_ctx)(ggml_context*, ggml_cgraph*, int) = nullptr; // of its CPU back end
    std::string missing;

    explicit Functions(link_map* caller) {
        const auto find = [&](const char* symbol, auto& function, bool needed) {
            function = reinterpret_cast<std::decay_t<decltype(function)>>(find_function(caller, symbol));
            if (!function && needed && missing.empty()) missing = symbol;
        };
#define ATTNSCOPE_FIND(name) find("ggml_" #name, name, true);
        ATTNSCOPE_PROBE_FUNCTIONS(ATTNSCOPE_FIND)
        find("ggml_set_rows", set_rows, false);
        find("ggml_graph_compute_with_ctx", graph_compute_with_ctx, false);
    }
};

template <typename T> T read(const void* tensor, size_t at) {
    T value;
    std::memcpy(&value, static_cast<const char*>(tensor) + at, sizeof value);
    return value;
}

constexpr size_t nowhere = SIZE_MAX;
constexpr size_t least_sources = 5, most_sources = 10; // flash attention's with sinks; those of all versions

using Field = std::pair<const char*, size_t>; // what it is, where it lies

// As many as are empty in a tensor that has none, up to the next field that is known.
size_t count_sources(const void* tensor, size_t first, std::span<const Field> fields) {
    size_t end = first + most_sources * sizeof(void*);
    for (const auto& [what, at] : fields) {
        if (at > first) end = std::min(end, at);
    }
    size_t n = 0;
    while (first + (n + 1) * sizeof(void*) <= end && !read<const void*>(tensor, first + n * sizeof(void*))) ++n;
    return n;
}

// The only place in `size` bytes of a tensor for which `fits`; nowhere if there is none or several.
template <typename F> size_t only_place(size_t size, size_t step, size_t bytes, F&& fits) {
    size_t found = nowhere;
    for (size_t at = 0; at + bytes <= size; at += step) {
        if (!fits(at)) continue;
        if (found != nowhere) return nowhere;
        found = at;
    }
    return found;
}

// Tensors of shapes and values that no field has by chance.
struct Made {
    ggml_context* context = nullptr;
    ggml_backend_buffer_t memory = nullptr;
    ggml_tensor *plain = nullptr, *half = nullptr, *ints = nullptr, *view = nullptr, *product = nullptr,
                *marked = nullptr;
    ggml_tensor *placed = nullptr, *flash = nullptr;
    std::map<Op, ggml_tensor*> of;
    void* base = nullptr;
    std::vector<uint8_t> before_output, before_forward; // bytes of `marked` and `product`
};

constexpr int64_t shape[4] = {3, 5, 7, 11};
constexpr size_t view_offset = 52;
constexpr float flash_scale = 0.1171875F, flash_softcap = 29.5F;
constexpr const char* probe_name = "attnscope_probe_name";

constexpr size_t object_bytes = 32; // of a ggml_object, which stands before every tensor in a context

void make(const Functions& f, Made& m, size_t tensor_bytes) {
    m.context = f.init({64 * f.tensor_overhead() + 2 * f.graph_overhead(), nullptr, true});
    ggml_context* c = m.context;
    if (!c) return;
    const auto tensor = [&](ggml_type type, int64_t a, int64_t b, int64_t d = 1, int64_t e = 1) {
        return f.new_tensor_4d(c, type, a, b, d, e);
    };
    m.plain = tensor(GGML_TYPE_F32, shape[0], shape[1], shape[2], shape[3]);
    m.half = tensor(GGML_TYPE_F16, shape[0], shape[1], shape[2], shape[3]);
    m.ints = tensor(GGML_TYPE_I32, shape[0], shape[1], shape[2], shape[3]);
    f.set_name(m.plain, probe_name);
    m.view = f.view_1d(c, m.plain, 2, view_offset);
    ggml_tensor* a = tensor(GGML_TYPE_F32, 64, 6);
    ggml_tensor* b = tensor(GGML_TYPE_F32, 64, 2);
    m.product = f.mul_mat(c, a, b);
    const auto set = [&](Op op, ggml_tensor* t) { m.of[op] = t; };
    set(Op::none, m.plain);
    set(Op::add, f.add(c, a, a));
    set(Op::scale, f.scale(c, a, 2));
    set(Op::unary, f.tanh(c, a));
    set(Op::mul_mat, m.product);
    set(Op::cont, f.cont(c, a));
    set(Op::cpy, f.cpy(c, a, tensor(GGML_TYPE_F16, 64, 6)));
    set(Op::view, m.view);
    set(Op::reshape, f.reshape_1d(c, a, 64 * 6));
    set(Op::permute, f.permute(c, a, 0, 2, 1, 3));
    set(Op::transpose, f.transpose(c, a));
    set(Op::get_rows, f.get_rows(c, a, tensor(GGML_TYPE_I32, 2, 1)));
    if (f.set_rows) set(Op::set_rows, f.set_rows(c, tensor(GGML_TYPE_F16, 64, 9), b, tensor(GGML_TYPE_I64, 2, 1)));
    set(Op::rope, f.rope(c, tensor(GGML_TYPE_F32, 64, 4, 2), tensor(GGML_TYPE_I32, 2, 1), 64, 0));
    ggml_tensor* mask = tensor(GGML_TYPE_F32, 6, 64);
    set(Op::soft_max, f.soft_max_ext(c, tensor(GGML_TYPE_F32, 6, 2, 4), mask, 1, 0));
    ggml_tensor* keys = tensor(GGML_TYPE_F16, 64, 256, 2);
    ggml_tensor* mask16 = tensor(GGML_TYPE_F16, 256, 64);
    m.flash = f.flash_attn_ext(c, tensor(GGML_TYPE_F32, 64, 2, 4), keys, keys, mask16, flash_scale, 0, flash_softcap);
    set(Op::flash_attn_ext, m.flash);

    const auto copy = [&](const ggml_tensor* t) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(t);
        return std::vector<uint8_t>(bytes, bytes + tensor_bytes);
    };
    m.marked = tensor(GGML_TYPE_F32, 2, 2);
    m.before_output = copy(m.marked);
    f.set_output(m.marked);
    m.before_forward = copy(m.product);
    f.build_forward_expand(f.new_graph(c), m.product);
    m.memory = f.backend_buft_alloc_buffer(f.backend_cpu_buffer_type(), 4096);
    m.placed = tensor(GGML_TYPE_F32, 2, 2);
    if (!m.memory) return;
    m.base = f.backend_buffer_get_base(m.memory);
    f.backend_tensor_alloc(m.memory, m.placed, m.base);
}

// Whatever is returned has been cross-checked. A sentence: what was not found.
std::string read_layout(const Functions& f, const Made& m, size_t size, capture::GgmlAbi& abi) {
    capture::GgmlTensorLayout& l = abi.tensor;
    l.size = size;
    l.ne = only_place(size, 8, 32, [&](size_t at) {
        return read<int64_t>(m.plain, at) == shape[0] && read<int64_t>(m.plain, at + 8) == shape[1] &&
               read<int64_t>(m.plain, at + 16) == shape[2] && read<int64_t>(m.plain, at + 24) == shape[3];
    });
    l.nb = only_place(size, 8, 32, [&](size_t at) {
        return read<size_t>(m.plain, at) == 4 && read<size_t>(m.plain, at + 8) == 12 &&
               read<size_t>(m.plain, at + 16) == 60 && read<size_t>(m.plain, at + 24) == 420;
    });
    l.type = only_place(size, 4, 4, [&](size_t at) {
        return read<int32_t>(m.plain, at) == GGML_TYPE_F32 && read<int32_t>(m.half, at) == GGML_TYPE_F16 &&
               read<int32_t>(m.ints, at) == GGML_TYPE_I32;
    });
    l.name = only_place(size, 1, 64, [&](size_t at) {
        return std::memcmp(reinterpret_cast<const char*>(m.plain) + at, probe_name, std::strlen(probe_name) + 1) == 0;
    });
    l.src = only_place(size, 8, 24, [&](size_t at) {
        const auto* k = read<const void*>(m.flash, at + 8);
        return k && k == read<const void*>(m.flash, at + 16) && k != read<const void*>(m.flash, at) &&
               read<const void*>(m.view, at) == m.plain;
    });
    l.view_src =
        only_place(size, 8, 8, [&](size_t at) { return at != l.src && read<const void*>(m.view, at) == m.plain; });
    l.view_offs = only_place(size, 8, 8, [&](size_t at) { return read<size_t>(m.view, at) == view_offset; });
    l.buffer =
        only_place(size, 8, 8, [&](size_t at) { return m.memory && read<const void*>(m.placed, at) == m.memory; });
    l.data = only_place(size, 8, 8, [&](size_t at) { return m.base && read<const void*>(m.placed, at) == m.base; });
    l.op_params = only_place(size, 4, 12, [&](size_t at) {
        return read<float>(m.flash, at) == flash_scale && read<float>(m.flash, at + 8) == flash_softcap;
    });
    // A number that some version could not have is not asked for its name: ggml does not look before it reads its table.
    const auto is = [&](const ggml_tensor* t, size_t at, const char* name) {
        const auto number = read<uint32_t>(t, at);
        return number < 60 && std::strcmp(f.op_name(static_cast<ggml_op>(number)), name) == 0;
    };
    l.op = only_place(size, 4, 4, [&](size_t at) {
        return is(m.plain, at, "NONE") && is(m.product, at, "MUL_MAT") && is(m.view, at, "VIEW");
    });
    l.flags = only_place(size, 4, 4, [&](size_t at) {
        return read<int32_t>(m.before_output.data(), at) != read<int32_t>(m.marked, at);
    });
    const Field fields[] = {{"shape", l.ne},
                            {"strides", l.nb},
                            {"type", l.type},
                            {"name", l.name},
                            {"sources", l.src},
                            {"view", l.view_src},
                            {"view's offset", l.view_offs},
                            {"buffer", l.buffer},
                            {"data", l.data},
                            {"parameters", l.op_params},
                            {"operation", l.op},
                            {"flags", l.flags}};
    for (const auto& [what, at] : fields) {
        if (at == nowhere) return std::string("where its tensors have their ") + what + " was not found";
    }
    l.n_src = count_sources(m.plain, l.src, fields);
    if (l.view_src <= l.src || l.n_src < least_sources) return "its tensors' sources do not lie as expected";
    abi.flag_compute = read<int32_t>(m.product, l.flags) & ~read<int32_t>(m.before_forward.data(), l.flags);
    abi.unary_tanh = read<int32_t>(m.of.at(Op::unary), l.op_params);
    for (const NamedOp& known : named_ops) {
        const auto made = m.of.find(known.op);
        if (made == m.of.end()) continue; // this version has none
        const auto number = read<uint32_t>(made->second, l.op);
        // it stands in a node that ggml itself has made: its name may be asked for
        if (number >= abi.ops.size() || std::strcmp(f.op_name(static_cast<ggml_op>(number)), known.name) != 0)
            return std::string("its number of the operation ") + known.name + " was not found";
        abi.ops[number] = known.op;
    }
    for (const auto& [type, name] : {std::pair{GGML_TYPE_F32, "f32"}, {GGML_TYPE_F16, "f16"}, {GGML_TYPE_I64, "i64"}}) {
        const char* theirs = f.type_name(type);
        if (!theirs || std::strcmp(theirs, name) != 0) return "its element types have other numbers";
    }
    return {};
}

// A sentence: one that is needed is missing.
std::string find_functions(link_map* caller, capture::GgmlAbi& abi) {
    const char* missing = nullptr;
    const bool old = !find_function(caller, "ggml_backend_buft_get_device") && answer_for_devices(caller, abi);
    const bool alone = !old && !find_function(caller, "ggml_backend_dev_by_type") && answer_for_registry(caller, abi);
    const auto find = [&](const char* name, auto& function) {
        if ((old || alone) && function) return;
        function = reinterpret_cast<std::decay_t<decltype(function)>>(find_function(caller, name));
        if (!function && !missing) missing = name;
    };
#define ATTNSCOPE_FIND_NEEDED(name) find("ggml_" #name, abi.name);
    ATTNSCOPE_GGML_FUNCTIONS(ATTNSCOPE_FIND_NEEDED)
    if (!missing && !old && !alone) find_devices(caller, abi);
    return missing ? std::string("its ggml has no function ") + missing + " that can be found" : std::string();
}

} // namespace

void abort_of_probe(const char* text) {
    if (!escape) return;
    std::strncpy(escape->text, text, sizeof escape->text - 1);
    siglongjmp(escape->to, 1);
}

namespace {

// Where ggml_abort is called past us, what ggml itself calls before it ends a program ends the probe. There since 2025-07.
class AbortCallback {
public:
    explicit AbortCallback(link_map* caller)
        : set_(reinterpret_cast<Set>(find_function(caller, "ggml_set_abort_callback"))) {
        if (set_) before_ = set_(ended);
    }
    ~AbortCallback() {
        if (set_) set_(before_);
    }
    AbortCallback(const AbortCallback&) = delete;
    AbortCallback& operator=(const AbortCallback&) = delete;
    bool is_there() const { return set_ != nullptr; }

private:
    using Callback = void (*)(const char*);
    using Set = Callback (*)(Callback);
    static void ended(const char* text) {
        abort_of_probe(text);
        std::fprintf(stderr, "%s\n", text); // another thread's: ggml says it, as it would have
    }
    const Set set_;
    Callback before_ = nullptr;
};

// ggml rounds what it multiplies with f16 to f16, where forks of it do not. Has one product computed, by this thread alone.
bool keeps_queries(const Functions& f, const capture::GgmlTensorLayout& layout) {
    ggml_context* c = f.graph_compute_with_ctx ? f.init({size_t(4) << 20, nullptr, false}) : nullptr;
    if (!c) return false;
    constexpr size_t n = 64;
    constexpr uint16_t one = 0x3c00;              // in f16
    constexpr float query = 1 + 1.0F / (1 << 12); // lies between two numbers of f16
    volatile bool kept = false;
    Escape here;
    if (sigsetjmp(here.to, 0) == 0) {
        escape = &here;
        ggml_tensor* keys = f.new_tensor_4d(c, GGML_TYPE_F16, n, 8, 1, 1);
        ggml_tensor* queries = f.new_tensor_4d(c, GGML_TYPE_F32, n, 1, 1, 1);
        std::fill_n(read<uint16_t*>(keys, layout.data), n * 8, one);
        std::fill_n(read<float*>(queries, layout.data), n, query);
        ggml_tensor* product = f.mul_mat(c, keys, queries);
        ggml_cgraph* graph = f.new_graph(c);
        f.build_forward_expand(graph, product);
        if (f.graph_compute_with_ctx(c, graph, 1) == GGML_STATUS_SUCCESS)
            kept = *read<const float*>(product, layout.data) == n * query;
    }
    escape = nullptr;
    f.free(c);
    return kept;
}

} // namespace

Probed probe_ggml(link_map* caller) {
    Probed probed;
    const Functions f(caller);
    if (!f.missing.empty()) {
        probed.refusal = "its ggml has no function " + f.missing + " that can be found";
        return probed;
    }
    const size_t overhead = f.tensor_overhead();
    if (overhead < 200 || overhead > 4096) {
        probed.refusal = "its tensors have an unexpected size";
        return probed;
    }
    const size_t size = overhead - object_bytes;
    const AbortCallback callback(caller);
    if (is_redirected(caller) && !callback.is_there()) {
        probed.refusal = "its ggml has no function ggml_set_abort_callback, without which it is not safe to ask";
        return probed;
    }
    Made made;
    Escape here;
    if (sigsetjmp(here.to, 0) == 0) {
        escape = &here;
        make(f, made, size);
        escape = nullptr;
        probed.refusal = made.context ? read_layout(f, made, size, probed.abi) : "its ggml had no memory for the probe";
    } else {
        escape = nullptr;
        probed.refusal = std::string("its ggml refused the probe's tensors: ") + here.text;
    }
    if (made.memory) f.backend_buffer_free(made.memory);
    if (made.context) f.free(made.context);
    if (probed.refusal.empty()) probed.refusal = find_functions(caller, probed.abi);
    probed.keeps_queries = probed.refusal.empty() && keeps_queries(f, probed.abi.tensor);
    return probed;
}

} // namespace attnscope::attach
