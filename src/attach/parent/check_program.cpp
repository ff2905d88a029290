#include "attach/parent/check_program.h"

#include "attach/parent/run_attached.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include <elf.h>
#include <sys/stat.h>
#include <sys/xattr.h>

namespace attnscope::attach {

namespace {

#if defined(__x86_64__)
constexpr uint16_t our_machine = EM_X86_64;
#else
constexpr uint16_t our_machine = EM_AARCH64;
#endif

constexpr size_t most_text = 4096;
constexpr int most_interpreters = 4; // a script of a script of a script

template <typename T> std::optional<T> read_at(std::ifstream& file, uint64_t at) {
    T value{};
    file.clear();
    file.seekg(static_cast<std::streamoff>(at));
    file.read(reinterpret_cast<char*>(&value), sizeof value);
    return file ? std::optional<T>(value) : std::nullopt;
}

// The dynamic linker that a program asks for; empty: none. Nothing: the file is not whole.
std::optional<std::string> linker_of(std::ifstream& file, const Elf64_Ehdr& header) {
    for (uint64_t i = 0; i < header.e_phnum; ++i) {
        const auto p = read_at<Elf64_Phdr>(file, header.e_phoff + i * sizeof(Elf64_Phdr));
        if (!p) return std::nullopt;
        if (p->p_type != PT_INTERP) continue;
        std::string path(std::min<size_t>(p->p_filesz, most_text), '\0');
        file.seekg(static_cast<std::streamoff>(p->p_offset));
        if (!file.read(path.data(), static_cast<std::streamsize>(path.size()))) return std::nullopt;
        return path.substr(0, path.find('\0'));
    }
    return std::string();
}

ProgramCheck check_elf(const std::string& path, std::ifstream& file) {
    const auto header = read_at<Elf64_Ehdr>(file, 0);
    if (!header || header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != our_machine)
        return {false, path + " is made for another kind of processor than this attnscope"};
    const std::optional<std::string> linker = linker_of(file, *header);
    if (!linker) return {false, path + " is damaged"};
    if (linker->empty())
        return {false, path + " is linked statically: no library can go into it (use a build with shared libraries)"};
    if (linker->find("musl") != std::string::npos)
        return {false, path + " uses musl, and the library is made for glibc (use a build for glibc)"};
    struct stat info {};
    if (stat(path.c_str(), &info) == 0 && (info.st_mode & (S_ISUID | S_ISGID)) != 0)
        return {false,
                path + " runs with another user's rights (set-user-id), where the system ignores such libraries"};
    if (getxattr(path.c_str(), "security.capability", nullptr, 0) > 0)
        return {false,
                path +
                    " has capabilities, with which the system ignores such libraries (take them away with setcap -r)"};
    return {
        true,
        path + " is linked dynamically: the library goes into it and into what it starts, and captures where they call "
               "ggml's scheduler through the dynamic linker, or one inside themselves under names that their files "
               "still have"};
}

} // namespace

Result<ProgramCheck> check_program(const std::string& program) {
    std::string name = program;
    for (int depth = 0; depth < most_interpreters; ++depth) {
        Result<std::string> path = find_program(name);
        if (!path) return path.error();
        std::ifstream file(*path, std::ios::binary);
        if (!file) return Error{ErrorKind::io, "cannot read " + *path + ": " + std::strerror(errno)};
        char magic[SELFMAG] = {};
        file.read(magic, sizeof magic);
        if (file && std::memcmp(magic, ELFMAG, SELFMAG) == 0) return check_elf(*path, file);
        if (file.gcount() < 2 || magic[0] != '#' || magic[1] != '!')
            return ProgramCheck{false, *path + " is no program of this system"};
        std::string line(most_text, '\0'); // "#!/usr/bin/env python3"
        file.clear();
        file.seekg(2);
        file.read(line.data(), static_cast<std::streamsize>(line.size()));
        line.resize(static_cast<size_t>(file.gcount()));
        line.resize(std::min(line.size(), line.find('\n')));
        const size_t begin = std::min(line.find_first_not_of(" \t"), line.size());
        const size_t end = std::min(line.find_first_of(" \t", begin), line.size());
        name = line.substr(begin, end - begin);
        if (name.size() >= 4 && name.compare(name.size() - 4, 4, "/env") == 0) {
            const size_t next = std::min(line.find_first_not_of(" \t", end), line.size());
            name = line.substr(next, std::min(line.find_first_of(" \t", next), line.size()) - next);
        }
        if (name.empty()) return ProgramCheck{false, *path + " names no program that runs it"};
    }
    return ProgramCheck{false, program + " is a script of scripts"};
}

} // namespace attnscope::attach
