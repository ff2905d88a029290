// Defines functions of ggml that libllama calls through the dynamic linker, and calls the real ones. The dynamic linker
// finds ours first because it searches the executable (or LD_PRELOAD) first. The one file of this room that depends on
// ELF.
//
// The interposed functions have no argument that could carry a hook, so it is found through the thread that decodes.
// This is the only global state of the library.
#include "capture/graph/hook.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#endif

namespace attnscope::capture {

namespace {
thread_local GraphHook* current_hook = nullptr;
} // namespace

HookScope::HookScope(GraphHook* hook) : outer_(current_hook) {
    current_hook = hook;
}
HookScope::~HookScope() {
    current_hook = outer_;
}

#if defined(__linux__)
namespace {

// Where libggml-base was loaded by dlopen with local scope (language bindings do that), RTLD_NEXT finds nothing: the
// function is then looked up in the library that is already loaded.
void* find_loaded(const char* symbol) {
    struct Search {
        const char* symbol;
        void* found;
    } search{symbol, nullptr};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto* s = static_cast<Search*>(data);
            if (!info->dlpi_name || !std::strstr(info->dlpi_name, "ggml-base")) return 0;
            void* lib = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
            if (!lib) return 0;
            s->found = dlsym(lib, s->symbol);
            dlclose(lib);
            return s->found ? 1 : 0;
        },
        &search);
    return search.found;
}

template <typename F> F real(const char* symbol) {
    void* found = dlsym(RTLD_NEXT, symbol);
    if (!found) found = find_loaded(symbol);
    if (!found) {
        // libllama could not have called us without a ggml to call: nothing sensible can follow.
        std::fprintf(stderr, "attnscope: %s was called, but no ggml library is loaded\n", symbol);
        std::_Exit(2);
    }
    return reinterpret_cast<F>(found);
}

} // namespace
#endif

} // namespace attnscope::capture

#if defined(__linux__)

using attnscope::capture::current_hook;
using attnscope::capture::real;

extern "C" __attribute__((visibility("default"))) bool ggml_backend_sched_alloc_graph(ggml_backend_sched_t sched,
                                                                                      ggml_cgraph* graph) {
    static const auto next = real<bool (*)(ggml_backend_sched_t, ggml_cgraph*)>("ggml_backend_sched_alloc_graph");
    if (current_hook) current_hook->before_alloc(sched, graph);
    return next(sched, graph);
}

extern "C" __attribute__((visibility("default"))) ggml_status
ggml_backend_sched_graph_compute_async(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    static const auto next =
        real<ggml_status (*)(ggml_backend_sched_t, ggml_cgraph*)>("ggml_backend_sched_graph_compute_async");
    if (!current_hook) return next(sched, graph);
    current_hook->before_compute(sched, graph);
    const ggml_status status = next(sched, graph);
    current_hook->after_compute(sched, graph, status == GGML_STATUS_SUCCESS);
    return status;
}

#endif
