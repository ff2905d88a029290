#include "attach/parent/check_program.h"

#include "attach/parent/run_attached.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
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

// Which of these texts a file holds, anywhere.
template <size_t N> std::array<bool, N> texts_in(std::ifstream& file, const std::array<std::string_view, N>& texts) {
    constexpr size_t piece = size_t(1) << 20, longest = 64;
    std::array<bool, N> found{};
    std::string bytes;
    file.clear();
    file.seekg(0);
    while (file) {
        bytes.erase(0, bytes.size() -
                           std::min(bytes.size(), longest)); // a text may begin in one piece and end in the next
        const size_t before = bytes.size();
        bytes.resize(before + piece);
        file.read(bytes.data() + before, piece);
        bytes.resize(before + static_cast<size_t>(file.gcount()));
        for (size_t i = 0; i < N; ++i) found[i] = found[i] || bytes.find(texts[i]) != std::string::npos;
    }
    return found;
}

// Of a program that the library can go into: what it does there.
ProgramCheck check_inside(const std::string& path, std::ifstream& file) {
    const std::string dynamic = path + " is linked dynamically: ";
    const auto [llama, scheduler, loader, libllama, libggml] =
        texts_in<5>(file, {"k_l%d", "ggml_backend_sched_alloc_graph", "GGML_BACKEND_PATH", "libllama", "libggml"});
    if (!llama && !scheduler && !libllama && !libggml)
        return {CanAttach::yes,
                dynamic + "the library goes into it and into what it starts. Its file names no llama.cpp; where it "
                          "or what it starts loads one while it runs (as Python and Node.js do), that is captured"};
    if (!llama || scheduler)
        return {CanAttach::yes,
                dynamic + "the library goes into it and into what it starts, and captures where they call ggml's "
                          "scheduler through the dynamic linker, or one inside themselves under names that their "
                          "files still have"};
    const std::string inside =
        path + " holds a llama.cpp whose functions have no names (linked statically and stripped)";
    if (!loader)
        return {CanAttach::no, inside +
                                   ", and which asks for no back ends of others: nothing leads to it (use a build with "
                                   "shared libraries, or one that was not stripped)"};
    const char* given = std::getenv("GGML_BACKEND_PATH");
    const Result<std::string> library = attach_library();
    std::error_code ec;
    if (given && !(library && std::filesystem::equivalent(given, *library, ec)))
        return {CanAttach::no,
                inside + ", and GGML_BACKEND_PATH, through which it would load the library, names another one, "
                         "which is kept (unset it)"};
    return {CanAttach::yes,
            inside + ": its ggml is told to load the library as an accelerator (GGML_BACKEND_PATH), if the program "
                     "has it look for back ends, as those of llama.cpp do; captured is what it computes on its CPU"};
}

// Of the programs that run scripts those that start others to do the work. Python and Node.js do it themselves.
bool is_shell(const std::string& path) {
    constexpr std::array<std::string_view, 13> shells{"sh",   "bash", "dash", "ash", "busybox", "ksh", "mksh",
                                                      "yash", "zsh",  "fish", "csh", "tcsh",    "env"};
    return std::find(shells.begin(), shells.end(), std::filesystem::path(path).filename().string()) != shells.end();
}

// Of the scripts that pyenv and its like put in a program's place: what names the program itself, as a person types it.
std::string who_knows(const std::filesystem::path& script) {
    constexpr std::array<std::string_view, 5> managers{"pyenv", "asdf", "nodenv", "rbenv", "plenv"};
    std::string manager = script.parent_path().parent_path().filename().string();
    if (!manager.empty() && manager[0] == '.') manager.erase(0, 1);
    const bool known = std::find(managers.begin(), managers.end(), manager) != managers.end();
    if (!known || script.parent_path().filename() != "shims") return {};
    return " (`" + manager + " which " + script.filename().string() + "`)";
}

// `script`: that this program, a shell, runs; empty: it is asked about itself.
ProgramCheck check_elf(const std::string& path, std::ifstream& file, const std::string& script) {
    const auto header = read_at<Elf64_Ehdr>(file, 0);
    if (!header || header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != our_machine)
        return {CanAttach::no, path + " is made for another kind of processor than this attnscope"};
    const std::optional<std::string> linker = linker_of(file, *header);
    if (!linker) return {CanAttach::no, path + " is damaged"};
    const bool passes_on = !script.empty(); // whatever it is made of, what it starts has the variable
    if (linker->empty() && !passes_on)
        return {CanAttach::no,
                path + " is linked statically: no library can go into it (use a build with shared libraries)"};
    if (linker->find("musl") != std::string::npos && !passes_on)
        return {CanAttach::no, path + " uses musl, and the library is made for glibc (use a build for glibc)"};
    struct stat info {};
    if (stat(path.c_str(), &info) == 0 && (info.st_mode & (S_ISUID | S_ISGID)) != 0)
        return {CanAttach::no,
                path + " runs with another user's rights (set-user-id), where the system ignores such libraries"};
    if (getxattr(path.c_str(), "security.capability", nullptr, 0) > 0)
        return {CanAttach::no,
                path +
                    " has capabilities, with which the system ignores such libraries (take them away with setcap -r)"};
    if (passes_on)
        return {CanAttach::perhaps,
                script + " is a script that " + path +
                    " runs: what it starts is not known until it runs. Ask about that program itself" +
                    who_knows(script)};
    return check_inside(path, file);
}

// The program that env is to run: behind -S its options and variables stand before it. Without that the system hands it all words as one,
// which with options is for env to make something of: itself.
std::string run_by_env(const std::string& env, std::istringstream& words) {
    std::string name;
    bool split = false;
    while (words >> name) {
        if (name.rfind("-S", 0) == 0) {
            split = true;
            name.erase(0, 2);
            if (name.empty()) continue;
        }
        if (name[0] == '-' && !split) return env;
        if (name == "-u" || name == "-C") {
            words >> name; // of which variable, or folder
            continue;
        }
        if (name[0] != '-' && name.find('=') == std::string::npos) return name;
    }
    return {};
}

// Who runs a script, from its first line: "#!/usr/bin/env python3". Empty: nobody is named, or in more letters than the system reads.
std::string interpreter_of(std::ifstream& file) {
    constexpr size_t most_line = 254; // BINPRM_BUF_SIZE without "#!"
    std::string line(most_line, '\0');
    file.clear();
    file.seekg(2);
    file.read(line.data(), static_cast<std::streamsize>(line.size()));
    line.resize(static_cast<size_t>(file.gcount()));
    const size_t over = line.find_first_of(std::string_view("\n\0", 2));
    const bool whole = over != std::string::npos || line.size() < most_line;
    line.resize(std::min(line.size(), over));
    const size_t begin = std::min(line.find_first_not_of(" \t"), line.size());
    const size_t end = std::min(line.find_first_of(" \t", begin), line.size());
    if (!whole && end == line.size()) return {};
    const std::string name = line.substr(begin, end - begin);
    if (std::filesystem::path(name).filename() != "env") return name;
    std::istringstream words(line.substr(end));
    return run_by_env(name, words);
}

} // namespace

Result<ProgramCheck> check_program(const std::string& program) {
    std::string name = program, script;
    for (int depth = 0; depth < most_interpreters; ++depth) {
        Result<std::string> path = find_program(name);
        if (!path) return path.error();
        std::ifstream file(*path, std::ios::binary);
        if (!file) return Error{ErrorKind::io, "cannot read " + *path + ": " + std::strerror(errno)};
        char magic[SELFMAG] = {};
        file.read(magic, sizeof magic);
        if (file && std::memcmp(magic, ELFMAG, SELFMAG) == 0)
            return check_elf(*path, file, is_shell(*path) ? script : std::string());
        if (file.gcount() < 2 || magic[0] != '#' || magic[1] != '!')
            return ProgramCheck{CanAttach::no, *path + " is no program of this system"};
        script = *path;
        name = interpreter_of(file);
        if (name.empty()) return ProgramCheck{CanAttach::no, *path + " names no program that runs it"};
        if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < ' ' || c == 127; }))
            return ProgramCheck{CanAttach::no, *path +
                                                   " names a program that nobody can have, with a control character "
                                                   "(lines that end as on Windows?)"};
    }
    return ProgramCheck{CanAttach::no, program + " is a script of scripts"};
}

} // namespace attnscope::attach
