#include "attach/inside/import_slots.h"

#include "attach/inside/loaded.h"

#include <cstdint>
#include <cstring>

#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

#if defined(__x86_64__)
constexpr uint64_t jump_slot = R_X86_64_JUMP_SLOT, data_slot = R_X86_64_GLOB_DAT;
#else
constexpr uint64_t jump_slot = R_AARCH64_JUMP_SLOT, data_slot = R_AARCH64_GLOB_DAT;
#endif

struct Imports {
    const ElfW(Sym) * symbols = nullptr;
    const char* names = nullptr;
    std::span<const ElfW(Rela)> calls, others;
};

// The linker has turned addresses in the dynamic section into pointers, but for the kernel's own object.
Imports imports_of(const link_map* object) {
    Imports in;
    const ElfW(Rela)* calls = nullptr;
    const ElfW(Rela)* others = nullptr;
    size_t n_calls = 0, n_others = 0;
    bool with_addends = true;
    for (const ElfW(Dyn)* d = object->l_ld; d && d->d_tag != DT_NULL; ++d) {
        const auto address = static_cast<uintptr_t>(d->d_un.d_ptr);
        if (address < object->l_addr && (d->d_tag == DT_SYMTAB || d->d_tag == DT_STRTAB)) return {}; // not relocated
        switch (d->d_tag) {
        case DT_SYMTAB: in.symbols = reinterpret_cast<const ElfW(Sym)*>(address); break;
        case DT_STRTAB: in.names = reinterpret_cast<const char*>(address); break;
        case DT_JMPREL: calls = reinterpret_cast<const ElfW(Rela)*>(address); break;
        case DT_PLTRELSZ: n_calls = d->d_un.d_val / sizeof(ElfW(Rela)); break;
        case DT_PLTREL: with_addends = d->d_un.d_val == DT_RELA; break;
        case DT_RELA: others = reinterpret_cast<const ElfW(Rela)*>(address); break;
        case DT_RELASZ: n_others = d->d_un.d_val / sizeof(ElfW(Rela)); break;
        default: break;
        }
    }
    if (calls && with_addends) in.calls = {calls, n_calls};
    if (others) in.others = {others, n_others};
    return in;
}

// Pages that the linker has made read-only once it had filled them.
struct ReadOnly {
    uintptr_t begin = 0, end = 0;
};
ReadOnly read_only_of(const link_map* object) {
    struct Search {
        uintptr_t base;
        ReadOnly found;
    } search{object->l_addr, {}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto* s = static_cast<Search*>(data);
            if (info->dlpi_addr != s->base) return 0;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const ElfW(Phdr)& p = info->dlpi_phdr[i];
                if (p.p_type == PT_GNU_RELRO) s->found = {s->base + p.p_vaddr, s->base + p.p_vaddr + p.p_memsz};
            }
            return 1;
        },
        &search);
    return search.found;
}

bool write_slot(uintptr_t slot, void* function, const ReadOnly& read_only) {
    const auto page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    void* page = reinterpret_cast<void*>(slot & ~(page_size - 1));
    if (mprotect(page, page_size, PROT_READ | PROT_WRITE) != 0) return false;
    *reinterpret_cast<void**>(slot) = function;
    const bool was_read_only = slot >= read_only.begin && slot < (read_only.end & ~(page_size - 1));
    if (was_read_only) mprotect(page, page_size, PROT_READ);
    return true;
}

} // namespace

size_t replace_imports(std::span<const Replacement> replacements) {
    size_t n = 0;
    const link_map* object = this_object();
    while (object && object->l_prev) object = object->l_prev;
    for (; object; object = object->l_next) {
        if (object == this_object()) continue;
        const Imports in = imports_of(object);
        if (!in.symbols || !in.names) continue;
        const ReadOnly read_only = read_only_of(object);
        for (const auto& slots : {in.calls, in.others}) {
            for (const ElfW(Rela) & r : slots) {
                const uint64_t kind = ELF64_R_TYPE(r.r_info);
                if (kind != jump_slot && kind != data_slot) continue;
                const char* name = in.names + in.symbols[ELF64_R_SYM(r.r_info)].st_name;
                for (const Replacement& replacement : replacements) {
                    if (std::strcmp(name, replacement.name) != 0) continue;
                    if (write_slot(object->l_addr + r.r_offset, replacement.function, read_only)) ++n;
                }
            }
        }
    }
    return n;
}

} // namespace attnscope::attach
