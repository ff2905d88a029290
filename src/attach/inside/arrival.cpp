#include "attach/inside/arrival.h"

#include "attach/inside/call_sites.h"
#include "attach/inside/hooks.h"
#include "attach/inside/import_slots.h"
#include "attach/inside/loaded.h"
#include "attach/inside/outbox.h"
#include "attach/inside/program.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

bool is_model(std::FILE* file) {
    struct stat info {};
    char magic[4] = {}; // read past the stream's own position
    return fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode) &&
           pread(fileno(file), magic, sizeof magic, 0) == sizeof magic && std::memcmp(magic, "GGUF", 4) == 0;
}

// The first thing that every ggml does with a model, long before it computes: whatever holds that ggml is loaded, and at rest.
void model_opened(const char* path) {
    if (!attach_folder()) return;
    try {
        const size_t n = redirect_calls(replacements());
        constexpr const char* scheduler = "ggml_backend_sched_alloc_graph";
        if (n > 0 || redirected_function(nullptr, scheduler) || is_exported(scheduler)) return;
        not_reached(std::string(path) +
                    " was opened, but nothing that is loaded has a ggml scheduler whose functions have names, as in a "
                    "program that is linked statically and stripped: nothing of it is captured (use a build with "
                    "shared libraries, or one that was not stripped)");
    } catch (const std::exception&) { // no memory: the program goes on as it would without us
    }
}

} // namespace

size_t come_between() noexcept {
    if (!attach_folder()) return 0;
    const size_t n_slots = replace_imports(replacements());
    if (n_slots > 0) came_by("import slots");
    size_t n_calls = 0;
    try {
        n_calls = redirect_calls(replacements());
    } catch (const std::exception&) { // no memory: what does not come through the linker passes by
    }
    dlopen(this_object()->l_name, RTLD_NOW | RTLD_NODELETE);
    return n_slots + n_calls;
}

} // namespace attnscope::attach

using namespace attnscope::attach;

// ggml loads what GGML_BACKEND_PATH names as a back end of its own, and asks it for one: there is none, but now we are here.
extern "C" __attribute__((visibility("default"))) void* ggml_backend_init() {
    come_between();
    return nullptr;
}

// For programs that load this library themselves, where ATTNSCOPE_ATTACH names the folder of one who waits.
extern "C" __attribute__((visibility("default"))) void attnscope_attach_begin() {
    come_between();
}
extern "C" __attribute__((visibility("default"))) void attnscope_attach_end() {
    leave();
}

extern "C" __attribute__((visibility("hidden"))) std::FILE* attnscope_fopen(const char* path, const char* mode) {
    using Open = std::FILE* (*)(const char*, const char*);
    static std::atomic<Open> real{nullptr};
    Open open = real.load(std::memory_order_relaxed);
    if (!open) {
        open = reinterpret_cast<Open>(dlsym(RTLD_NEXT, "fopen"));
        real.store(open, std::memory_order_relaxed);
    }
    std::FILE* file = open(path, mode);
    if (file && mode[0] == 'r') {
        const int before = errno;
        if (is_model(file)) model_opened(path);
        errno = before;
    }
    return file;
}
// Under the names that programs call. On 64-bit systems both are one.
extern "C" {
std::FILE* attnscope_exported_fopen(const char*, const char*) __asm__("fopen")
    __attribute__((visibility("default"), alias("attnscope_fopen")));
std::FILE* attnscope_exported_fopen64(const char*, const char*) __asm__("fopen64")
    __attribute__((visibility("default"), alias("attnscope_fopen")));
}
