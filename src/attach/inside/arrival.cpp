#include "attach/inside/arrival.h"

#include "attach/inside/back_end.h"
#include "attach/inside/call_sites.h"
#include "attach/inside/environment.h"
#include "attach/inside/hooks.h"
#include "attach/inside/import_slots.h"
#include "attach/inside/loaded.h"
#include "attach/inside/outbox.h"
#include "attach/inside/program.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
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

constexpr const char* back_end_variable = "GGML_BACKEND_PATH";

// Can calls of a scheduler be come before? Where it can be done by leading them to us, it is.
bool can_hook() {
    constexpr const char* scheduler = "ggml_backend_sched_alloc_graph";
    return redirect_calls(replacements()) > 0 || redirected_function(nullptr, scheduler) || is_exported(scheduler);
}

bool is_this_library(const char* path) {
    struct stat ours {
    }, theirs{};
    return stat(path_of(this_object()).c_str(), &ours) == 0 && stat(path, &theirs) == 0 &&
           ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

// Why a program whose calls have no names has not let ggml load us either.
const char* why_no_back_end() {
    const char* path = given(back_end_variable);
    if (back_end_was_offered())
        return "its ggml did not take a back end of ours, whose interface it has in another version";
    if (path && !is_this_library(path))
        return "GGML_BACKEND_PATH names another back end than ours, or none, which is kept";
    return "it asks for no back ends of others (ggml_backend_load_all)";
}

// The first thing that every ggml does with a model, long before it computes: whatever holds that ggml is loaded, and at rest.
void model_opened(const char* path) {
    if (!attach_folder()) return;
    try {
        if (back_end_is_taken()) return remember_model(path);
        if (can_hook()) return;
        not_reached(std::string(path) +
                    " was opened, but nothing that is loaded has a ggml scheduler whose functions have names, as in a "
                    "program that is linked statically and stripped, and " +
                    why_no_back_end() +
                    ": nothing of it is captured (use a build with shared libraries, or one that was not stripped)");
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

// ggml loads what GGML_BACKEND_PATH names as a back end of its own, and asks it for one. Where we have come between already, or can now
// that we are here, there is none. A variable without a value has ggml look into the program itself, where it finds us: nobody meant that.
extern "C" __attribute__((visibility("default"))) void* ggml_backend_init() {
    const void* caller = __builtin_return_address(0);
    if (come_between() > 0 || !attach_folder()) return nullptr;
    const char* path = given(back_end_variable);
    try {
        if ((path && !*path) || can_hook()) return nullptr;
        return offer_back_end(object_of(caller), caller);
    } catch (const std::exception&) { // no memory
        return nullptr;
    }
}

// Where nothing else helps and nobody has named a back end of his own, ggml is told of us. Other programs, and all other variables, get
// what they would have got.
extern "C" __attribute__((visibility("hidden"))) char* attnscope_getenv(const char* name) {
    char* value = given(name);
    if (value || std::strcmp(name, back_end_variable) != 0 || !attach_folder()) return value;
    try {
        if (can_hook()) return nullptr;
    } catch (const std::exception&) {
        return nullptr;
    }
    return this_object()->l_name;
}

// For programs that load this library themselves, where ATTNSCOPE_ATTACH names the folder of one who waits.
extern "C" __attribute__((visibility("default"))) void attnscope_attach_begin() {
    begin_again();
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
// Under the names that programs call. On 64-bit systems both of files are one.
extern "C" {
char* attnscope_exported_getenv(const char*) __asm__("getenv")
    __attribute__((visibility("default"), alias("attnscope_getenv")));
std::FILE* attnscope_exported_fopen(const char*, const char*) __asm__("fopen")
    __attribute__((visibility("default"), alias("attnscope_fopen")));
std::FILE* attnscope_exported_fopen64(const char*, const char*) __asm__("fopen64")
    __attribute__((visibility("default"), alias("attnscope_fopen")));
}
