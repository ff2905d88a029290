// What this library and the C++ runtime inside it ask of the system that musl or an older glibc has not. A program of musl that inherits
// us loads us as any library, and its linker would end it over one missing name: so these are answered here, hidden, and nothing is
// asked for but what all have (cmake/old_glibc.sh: under the names that glibc had first).
#include "attach/inside/any_libc.h"

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

// Called once for each name; RTLD_DEFAULT reaches the linker's own functions, too.
template <typename F> F libc_function(std::atomic<F>& known, const char* name) {
    F function = known.load(std::memory_order_relaxed);
    if (!function) known.store(function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name)), std::memory_order_relaxed);
    return function;
}

#define ATTNSCOPE_HIDDEN extern "C" __attribute__((visibility("hidden"), used))

} // namespace

namespace attnscope::attach {

int find_object(const void* address, Dl_info* info, link_map** object) {
    using Find = int (*)(const void*, Dl_info*, void**, int);
    static std::atomic<Find> known{nullptr};
    const Find find = libc_function(known, "dladdr1");
    void* found = nullptr;
    if (!find || find(address, info, &found, RTLD_DL_LINKMAP) == 0) return 0;
    *object = static_cast<link_map*>(found);
    return 1;
}

} // namespace attnscope::attach

// libstdc++ counts references without atomics while this is true. To say no is always right.
extern "C" {
__attribute__((visibility("hidden"), used)) char __libc_single_threaded = 0;
}

// Destructors of what a thread has of its own. Where nobody runs them the memory stays until the process ends.
ATTNSCOPE_HIDDEN int __cxa_thread_atexit_impl(void (*destroy)(void*), void* what, void* library) {
    using AtExit = int (*)(void (*)(void*), void*, void*);
    static std::atomic<AtExit> known{nullptr};
    const AtExit at_exit = libc_function(known, "__cxa_thread_atexit_impl");
    return at_exit ? at_exit(destroy, what, library) : 0;
}

// Where an exception finds the tables of the code that it passes: the object that holds an address (gcc's unwinder).
ATTNSCOPE_HIDDEN int _dl_find_object(void* address, dl_find_object* result) noexcept {
    struct Search {
        uintptr_t address;
        dl_find_object* result;
    } search{reinterpret_cast<uintptr_t>(address), result};
    const int found = dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto* s = static_cast<Search*>(data);
            const ElfW(Phdr)* tables = nullptr;
            uintptr_t begin = UINTPTR_MAX, end = 0;
            bool holds = false;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const ElfW(Phdr)& p = info->dlpi_phdr[i];
                if (p.p_type == PT_GNU_EH_FRAME) tables = &p;
                if (p.p_type != PT_LOAD) continue;
                const uintptr_t from = info->dlpi_addr + p.p_vaddr, to = from + p.p_memsz;
                holds = holds || (s->address >= from && s->address < to);
                begin = begin < from ? begin : from, end = end > to ? end : to;
            }
            if (!holds || !tables) return 0;
            *s->result = {};
            s->result->dlfo_map_start = reinterpret_cast<void*>(begin);
            s->result->dlfo_map_end = reinterpret_cast<void*>(end);
            s->result->dlfo_eh_frame = reinterpret_cast<void*>(info->dlpi_addr + tables->p_vaddr);
            return 1;
        },
        &search);
    return found == 1 ? 0 : -1;
}

// Functions since glibc 2.33 alone. On 64-bit systems the kernel fills the very structure.
ATTNSCOPE_HIDDEN int fstat(int file, struct stat* info) noexcept {
    return static_cast<int>(syscall(SYS_fstat, file, info));
}
ATTNSCOPE_HIDDEN int stat(const char* path, struct stat* info) noexcept {
    return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, info, 0));
}

#if defined(__x86_64__)
// What a thread has of its own lies where the linker says, which has another name on every system.
ATTNSCOPE_HIDDEN void* __tls_get_addr(void* index) {
    using Get = void* (*)(void*);
    static std::atomic<Get> known{nullptr};
    return libc_function(known, "__tls_get_addr")(index);
}
#endif
