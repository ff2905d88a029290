// Functions of ggml that the program calls through the dynamic linker, which finds ours first. Each calls the real one, whatever
// happens here.
#include "attach/inside/hooks.h"

#include "attach/inside/import_slots.h"
#include "attach/inside/loaded.h"
#include "attach/inside/probe.h"
#include "attach/inside/program.h"
#include "capture/graph/ggml_abi.h"
#include "capture/graph/hook.h"

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <dlfcn.h>

namespace attnscope::capture {

namespace {
thread_local GraphHook* innermost = nullptr;
} // namespace

HookScope::HookScope(GraphHook* hook) : outer_(innermost) {
    innermost = hook;
}
HookScope::~HookScope() {
    innermost = outer_;
}

} // namespace attnscope::capture

namespace attnscope::attach {

capture::GraphHook* current_hook() {
    return capture::innermost;
}

namespace {

// The real functions, by the object that calls: a program may have several ggmls.
template <typename F> class Real {
public:
    explicit constexpr Real(const char* name) : name_(name) {}
    F of(link_map* caller) {
        for (Known& k : known_) {
            if (caller && k.caller.load(std::memory_order_acquire) == caller) return k.function;
        }
        void* found = find_function(caller, name_);
        if (!found) return nullptr;
        const auto function = reinterpret_cast<F>(found);
        const size_t at = caller ? n_known_.fetch_add(1) : known_.size();
        if (at < known_.size()) {
            known_[at].function = function;
            known_[at].caller.store(caller, std::memory_order_release);
        }
        return function;
    }

private:
    struct Known {
        std::atomic<link_map*> caller{nullptr};
        F function = nullptr;
    };
    const char* name_;
    std::array<Known, 16> known_{};
    std::atomic<size_t> n_known_{0};
};

[[noreturn]] void no_ggml(const char* name) {
    std::fprintf(stderr, "attnscope: %s was called, but no ggml that defines it can be found\n", name);
    std::abort();
}

using AllocGraph = bool (*)(ggml_backend_sched_t, ggml_cgraph*);
using Compute = ggml_status (*)(ggml_backend_sched_t, ggml_cgraph*);
using WithSched = void (*)(ggml_backend_sched_t);
using FreeBuffer = void (*)(ggml_backend_buffer_t);
using Set = void (*)(ggml_tensor*, const void*, size_t, size_t);
using Set2d = void (*)(ggml_tensor*, const void*, size_t, size_t, size_t, size_t, size_t);
using SetAsync = void (*)(ggml_backend_t, ggml_tensor*, const void*, size_t, size_t);
using Memset = void (*)(ggml_tensor*, uint8_t, size_t, size_t);
using Copy = void (*)(const ggml_tensor*, ggml_tensor*);
using Clear = void (*)(ggml_backend_buffer_t, uint8_t);
struct GgufParams { // gguf_init_params
    bool no_alloc;
    void* context;
};
using InitFromFile = void* (*)(const char*, GgufParams);

Real<AllocGraph> real_alloc("ggml_backend_sched_alloc_graph");
Real<Compute> real_async("ggml_backend_sched_graph_compute_async");
Real<Compute> real_sync("ggml_backend_sched_graph_compute");
Real<WithSched> real_free("ggml_backend_sched_free");
Real<WithSched> real_synchronize("ggml_backend_sched_synchronize");
Real<FreeBuffer> real_free_buffer("ggml_backend_buffer_free");
Real<InitFromFile> real_gguf("gguf_init_from_file");
Real<Set> real_set("ggml_backend_tensor_set");
Real<Set2d> real_set_2d("ggml_backend_tensor_set_2d");
Real<SetAsync> real_set_async("ggml_backend_tensor_set_async");
Real<Memset> real_memset("ggml_backend_tensor_memset");
Real<Copy> real_copy("ggml_backend_tensor_copy");
Real<Clear> real_clear("ggml_backend_buffer_clear");

thread_local bool inside = false; // the synchronous function calls the asynchronous one

bool alloc_graph(link_map* caller, ggml_backend_sched_t sched, ggml_cgraph* graph) {
    const AllocGraph real = real_alloc.of(caller);
    if (!real) no_ggml("ggml_backend_sched_alloc_graph");
    if (!inside) {
        inside = true;
        if (std::shared_ptr<Stream> stream = stream_of(caller, sched, graph)) stream->before_alloc(sched, graph);
        inside = false;
    }
    return real(sched, graph);
}

ggml_status compute(link_map* caller, ggml_backend_sched_t sched, ggml_cgraph* graph, Compute real) {
    if (inside) return real(sched, graph);
    std::shared_ptr<Stream> stream = stream_of(caller, sched);
    inside = true; // also where nothing is captured: ggml's own call in there is not another caller's
    const ggml_status status = stream ? stream->compute(sched, graph, real) : real(sched, graph);
    inside = false;
    return status;
}

// Around a write to memory in which a cache may lie that is captured.
template <typename F> void write_through(uintptr_t begin, uintptr_t end, F&& real, Leaves leaves = Leaves::something) {
    const std::shared_ptr<Stream> stream = stream_with_cache(begin, end);
    if (!stream) return real();
    inside = true;
    stream->before_write();
    real();
    stream->after_write(begin, end, leaves);
    inside = false;
}

// To `bytes` of a tensor from `offset` on (SIZE_MAX: to all of it).
template <typename F> void write_through(const ggml_tensor* tensor, size_t offset, size_t bytes, F&& real) {
    const auto data = inside || !knows_ggml() ? 0 : reinterpret_cast<uintptr_t>(capture::data(tensor));
    if (data == 0) return real();
    const uintptr_t begin = data + offset, end = bytes == SIZE_MAX ? data + capture::nbytes(tensor) : begin + bytes;
    write_through(begin, end, real);
}

} // namespace

} // namespace attnscope::attach

#define ATTNSCOPE_CALLER caller_at(__builtin_return_address(0))
// Hidden, so that a reference of ours means ours whatever the program exports; and under the name that the program calls.
#define ATTNSCOPE_HOOK extern "C" __attribute__((visibility("hidden")))
#define ATTNSCOPE_EXPORT(ours) __attribute__((visibility("default"), alias(#ours)))

using namespace attnscope::attach;

ATTNSCOPE_HOOK bool attnscope_alloc_graph(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    return alloc_graph(ATTNSCOPE_CALLER, sched, graph);
}

ATTNSCOPE_HOOK ggml_status attnscope_compute_async(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    link_map* caller = ATTNSCOPE_CALLER;
    const Compute real = real_async.of(caller);
    if (!real) no_ggml("ggml_backend_sched_graph_compute_async");
    return compute(caller, sched, graph, real);
}

ATTNSCOPE_HOOK ggml_status attnscope_compute(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    link_map* caller = ATTNSCOPE_CALLER;
    const Compute real = real_sync.of(caller);
    if (!real) no_ggml("ggml_backend_sched_graph_compute");
    return compute(caller, sched, graph, real);
}

ATTNSCOPE_HOOK void attnscope_sched_free(ggml_backend_sched_t sched) {
    const WithSched real = real_free.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_sched_free");
    if (!inside) rest_stream(sched);
    real(sched);
}

ATTNSCOPE_HOOK void attnscope_sched_synchronize(ggml_backend_sched_t sched) {
    const WithSched real = real_synchronize.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_sched_synchronize");
    if (!inside) {
        inside = true;
        if (const std::shared_ptr<Stream> stream = known_stream(sched)) stream->before_wait();
        inside = false;
    }
    real(sched);
}

ATTNSCOPE_HOOK void attnscope_buffer_free(ggml_backend_buffer_t buffer) {
    const FreeBuffer real = real_free_buffer.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_buffer_free");
    if (!inside && buffer) memory_goes(buffer);
    real(buffer);
}

ATTNSCOPE_HOOK void attnscope_set(ggml_tensor* t, const void* data, size_t offset, size_t bytes) {
    const Set real = real_set.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_tensor_set");
    write_through(t, offset, bytes, [&] { real(t, data, offset, bytes); });
}

ATTNSCOPE_HOOK void attnscope_set_2d(ggml_tensor* t, const void* data, size_t offset, size_t bytes, size_t n,
                                     size_t stride, size_t data_stride) {
    const Set2d real = real_set_2d.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_tensor_set_2d");
    write_through(t, offset, n > 0 ? (n - 1) * stride + bytes : 0,
                  [&] { real(t, data, offset, bytes, n, stride, data_stride); });
}

ATTNSCOPE_HOOK void attnscope_set_async(ggml_backend_t backend, ggml_tensor* t, const void* data, size_t offset,
                                        size_t bytes) {
    const SetAsync real = real_set_async.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_tensor_set_async");
    write_through(t, offset, bytes, [&] { real(backend, t, data, offset, bytes); });
}

ATTNSCOPE_HOOK void attnscope_memset(ggml_tensor* t, uint8_t value, size_t offset, size_t bytes) {
    const Memset real = real_memset.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_tensor_memset");
    write_through(t, offset, bytes, [&] { real(t, value, offset, bytes); });
}

ATTNSCOPE_HOOK void attnscope_copy(const ggml_tensor* from, ggml_tensor* to) {
    const Copy real = real_copy.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_tensor_copy");
    write_through(to, 0, SIZE_MAX, [&] { real(from, to); });
}

ATTNSCOPE_HOOK void attnscope_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    const Clear real = real_clear.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("ggml_backend_buffer_clear");
    if (inside || !knows_ggml()) return real(buffer, value);
    const auto begin = reinterpret_cast<uintptr_t>(attnscope::capture::ggml().backend_buffer_get_base(buffer));
    write_through(
        begin, begin + attnscope::capture::ggml().backend_buffer_get_size(buffer), [&] { real(buffer, value); },
        Leaves::nothing);
}

ATTNSCOPE_HOOK void* attnscope_gguf_init(const char* path, GgufParams params) {
    const InitFromFile real = real_gguf.of(ATTNSCOPE_CALLER);
    if (!real) no_ggml("gguf_init_from_file");
    remember_model(path);
    return real(path, params);
}

// While the probe runs its aborts come back to it. All others are the program's.
ATTNSCOPE_HOOK void attnscope_abort(const char* file, int line, const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    abort_of_probe(text);
    using Abort = void (*)(const char*, int, const char*, ...);
    if (const auto real = reinterpret_cast<Abort>(find_function(ATTNSCOPE_CALLER, "ggml_abort"))) {
        real(file, line, "%s", text);
    }
    std::fprintf(stderr, "%s:%d: %s\n", file, line, text);
    std::abort();
}

extern "C" {
bool ggml_backend_sched_alloc_graph(ggml_backend_sched_t, ggml_cgraph*) ATTNSCOPE_EXPORT(attnscope_alloc_graph);
ggml_status ggml_backend_sched_graph_compute_async(ggml_backend_sched_t, ggml_cgraph*)
    ATTNSCOPE_EXPORT(attnscope_compute_async);
ggml_status ggml_backend_sched_graph_compute(ggml_backend_sched_t, ggml_cgraph*) ATTNSCOPE_EXPORT(attnscope_compute);
void ggml_backend_sched_free(ggml_backend_sched_t) ATTNSCOPE_EXPORT(attnscope_sched_free);
void ggml_backend_sched_synchronize(ggml_backend_sched_t) ATTNSCOPE_EXPORT(attnscope_sched_synchronize);
void ggml_backend_buffer_free(ggml_backend_buffer_t) ATTNSCOPE_EXPORT(attnscope_buffer_free);
void ggml_backend_tensor_set(ggml_tensor*, const void*, size_t, size_t) ATTNSCOPE_EXPORT(attnscope_set);
void ggml_backend_tensor_set_2d(ggml_tensor*, const void*, size_t, size_t, size_t, size_t, size_t)
    ATTNSCOPE_EXPORT(attnscope_set_2d);
void ggml_backend_tensor_set_async(ggml_backend_t, ggml_tensor*, const void*, size_t, size_t)
    ATTNSCOPE_EXPORT(attnscope_set_async);
void ggml_backend_tensor_memset(ggml_tensor*, uint8_t, size_t, size_t) ATTNSCOPE_EXPORT(attnscope_memset);
void ggml_backend_tensor_copy(const ggml_tensor*, ggml_tensor*) ATTNSCOPE_EXPORT(attnscope_copy);
void ggml_backend_buffer_clear(ggml_backend_buffer_t, uint8_t) ATTNSCOPE_EXPORT(attnscope_clear);
void* gguf_init_from_file(const char*, GgufParams) ATTNSCOPE_EXPORT(attnscope_gguf_init);
void ggml_abort(const char*, int, const char*, ...) ATTNSCOPE_EXPORT(attnscope_abort);
}

std::span<const Replacement> attnscope::attach::replacements() {
    static const Replacement all[] = {
        {"ggml_backend_sched_alloc_graph", reinterpret_cast<void*>(attnscope_alloc_graph)},
        {"ggml_backend_sched_graph_compute_async", reinterpret_cast<void*>(attnscope_compute_async)},
        {"ggml_backend_sched_graph_compute", reinterpret_cast<void*>(attnscope_compute)},
        {"ggml_backend_sched_free", reinterpret_cast<void*>(attnscope_sched_free)},
        {"ggml_backend_sched_synchronize", reinterpret_cast<void*>(attnscope_sched_synchronize)},
        {"ggml_backend_buffer_free", reinterpret_cast<void*>(attnscope_buffer_free)},
        {"ggml_backend_tensor_set", reinterpret_cast<void*>(attnscope_set)},
        {"ggml_backend_tensor_set_2d", reinterpret_cast<void*>(attnscope_set_2d)},
        {"ggml_backend_tensor_set_async", reinterpret_cast<void*>(attnscope_set_async)},
        {"ggml_backend_tensor_memset", reinterpret_cast<void*>(attnscope_memset)},
        {"ggml_backend_tensor_copy", reinterpret_cast<void*>(attnscope_copy)},
        {"ggml_backend_buffer_clear", reinterpret_cast<void*>(attnscope_clear)},
        {"gguf_init_from_file", reinterpret_cast<void*>(attnscope_gguf_init)},
        {"ggml_abort", reinterpret_cast<void*>(attnscope_abort)},
    };
    return all;
}
