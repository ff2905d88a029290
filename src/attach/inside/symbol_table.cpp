#include "attach/inside/symbol_table.h"

#include <algorithm>
#include <cstring>
#include <span>

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

constexpr uint64_t most_table_bytes = uint64_t(1) << 30;
constexpr size_t most_functions_of_ggml = 100'000;

// Not mapped: a file that somebody cuts short while it is read must not end the program.
bool read_at(int file, void* to, uint64_t n, uint64_t at) {
    auto* bytes = static_cast<char*>(to);
    while (n > 0) {
        const ssize_t got = pread(file, bytes, n, static_cast<off_t>(at));
        if (got <= 0) return false;
        bytes += got, at += static_cast<uint64_t>(got), n -= static_cast<uint64_t>(got);
    }
    return true;
}

template <typename T> bool read_table(int file, std::vector<T>& to, uint64_t bytes, uint64_t at) {
    if (bytes > most_table_bytes || bytes % sizeof(T) != 0) return false;
    to.resize(bytes / sizeof(T));
    return read_at(file, to.data(), bytes, at);
}

// What the linker itself has of an object.
// Nothing is allocated in there: an exception would have to pass through C.
std::span<const ElfW(Phdr)> loaded_headers(const link_map* object) {
    struct Search {
        const link_map* object;
        std::span<const ElfW(Phdr)> found;
    } search{object, {}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto* s = static_cast<Search*>(data);
            if (info->dlpi_addr != s->object->l_addr || std::strcmp(info->dlpi_name, s->object->l_name) != 0) return 0;
            s->found = {info->dlpi_phdr, info->dlpi_phnum};
            return 1;
        },
        &search);
    return search.found;
}

bool is_function(const ElfW(Sym) & s) {
    return ELF64_ST_TYPE(s.st_info) == STT_FUNC && s.st_shndx != SHN_UNDEF && s.st_value != 0;
}

} // namespace

SymbolTable::~SymbolTable() {
    if (file_ >= 0) close(file_);
}

std::unique_ptr<SymbolTable> SymbolTable::of(const link_map* object, std::string_view marker) {
    std::unique_ptr<SymbolTable> table(new SymbolTable);
    const bool named = object->l_name && object->l_name[0] != '\0';
    const int file = table->file_ = open(named ? object->l_name : "/proc/self/exe", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info {};
    ElfW(Ehdr) header{};
    if (file < 0 || fstat(file, &info) != 0 || !S_ISREG(info.st_mode) || !read_at(file, &header, sizeof header, 0))
        return nullptr;
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof(ElfW(Phdr)) || header.e_shentsize != sizeof(ElfW(Shdr)))
        return nullptr;
    std::vector<ElfW(Shdr)> sections;
    if (!read_table(file, sections, uint64_t(header.e_shnum) * sizeof(ElfW(Shdr)), header.e_shoff)) return nullptr;
    const auto of_type = [&](uint32_t type) {
        return std::find_if(sections.begin(), sections.end(),
                            [&](const ElfW(Shdr) & section) { return section.sh_type == type; });
    };
    const bool is_stripped = of_type(SHT_SYMTAB) == sections.end();
    const auto symtab = of_type(is_stripped ? SHT_DYNSYM : SHT_SYMTAB);
    if (symtab == sections.end() || symtab->sh_link >= sections.size()) return nullptr;
    std::vector<ElfW(Phdr)> segments;
    if (!read_table(file, segments, uint64_t(header.e_phnum) * sizeof(ElfW(Phdr)), header.e_phoff)) return nullptr;
    const std::span<const ElfW(Phdr)> loaded = loaded_headers(object);
    if (loaded.size() != segments.size() ||
        std::memcmp(loaded.data(), segments.data(), segments.size() * sizeof(ElfW(Phdr))) != 0)
        return nullptr; // another file has this name now
    std::vector<ElfW(Sym)> symbols;
    std::vector<char> names;
    const ElfW(Shdr)& strings = sections[symtab->sh_link];
    if (!read_table(file, symbols, symtab->sh_size, symtab->sh_offset) ||
        !read_table(file, names, strings.sh_size, strings.sh_offset) || names.empty() || names.back() != '\0')
        return nullptr;
    const auto name_of = [&](const ElfW(Sym) & s) {
        return s.st_name < names.size() ? names.data() + s.st_name : names.data() + names.size() - 1;
    };
    if (std::none_of(symbols.begin(), symbols.end(),
                     [&](const ElfW(Sym) & s) { return is_function(s) && name_of(s) == marker; }))
        return nullptr;

    for (const ElfW(Phdr) & p : segments) {
        if (p.p_type != PT_LOAD || (p.p_flags & PF_X) == 0) continue;
        const uintptr_t begin = object->l_addr + p.p_vaddr;
        table->segments_.push_back({begin, begin + p.p_filesz, p.p_offset});
    }
    const auto add_code = [&](uintptr_t begin, uintptr_t end) {
        const bool inside = std::any_of(table->segments_.begin(), table->segments_.end(), [&](const Segment& segment) {
            return begin >= segment.begin && begin < end && end <= segment.end;
        });
        if (inside) table->code_.push_back({begin, end});
        return inside;
    };
    for (const ElfW(Shdr) & section : sections) {
        if (!is_stripped || section.sh_type != SHT_PROGBITS || (section.sh_flags & SHF_EXECINSTR) == 0) continue;
        add_code(object->l_addr + section.sh_addr, object->l_addr + section.sh_addr + section.sh_size);
    }
    const std::string_view prefix = marker.substr(0, marker.find('_'));
    for (const ElfW(Sym) & s : symbols) {
        if (!is_function(s)) continue;
        const uintptr_t begin = object->l_addr + s.st_value;
        if (!add_code(begin, begin + s.st_size)) continue;
        const std::string_view name = name_of(s);
        if (name.rfind(prefix, 0) != 0 && name.rfind("gguf", 0) != 0) continue;
        if (table->functions_.size() >= most_functions_of_ggml) return nullptr;
        const auto [known, is_new] = table->functions_.try_emplace(std::string(name), begin);
        if (!is_new && known->second != begin) known->second = 0; // two of one name: nobody can say which is meant
    }
    // Aliases share their code; nothing is to be looked at twice.
    std::sort(table->code_.begin(), table->code_.end(),
              [](const Code& a, const Code& b) { return a.begin != b.begin ? a.begin < b.begin : a.end > b.end; });
    uintptr_t seen = 0;
    for (Code& c : table->code_) {
        c.begin = std::max(c.begin, seen);
        seen = std::max(seen, c.end);
    }
    table->code_.erase(
        std::remove_if(table->code_.begin(), table->code_.end(), [](const Code& c) { return c.begin >= c.end; }),
        table->code_.end());
    return table;
}

void SymbolTable::keep_names_only() {
    if (file_ >= 0) close(file_);
    file_ = -1;
    code_ = {};
}

uintptr_t SymbolTable::function(std::string_view name) const {
    const auto found = functions_.find(name);
    return found == functions_.end() ? 0 : found->second;
}

bool SymbolTable::as_in_file(uintptr_t address, size_t n_bytes) const {
    for (const Segment& s : segments_) {
        if (address < s.begin || address > s.end || n_bytes > s.end - address) continue;
        std::vector<char> bytes(n_bytes);
        return read_at(file_, bytes.data(), n_bytes, s.at + (address - s.begin)) &&
               std::memcmp(bytes.data(), reinterpret_cast<const void*>(address), n_bytes) == 0;
    }
    return false;
}

} // namespace attnscope::attach
