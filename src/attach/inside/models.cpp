// Which GGUF files the program has open: mapped, or still open, or opened by name lately.
#include "attach/inside/stream.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <set>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

constexpr size_t most_remembered = 16;
std::mutex remembered_mutex;
std::deque<std::string>& remembered() {
    static std::deque<std::string>& paths =
        *new std::deque<std::string>; // the program's end must not take it from its threads
    return paths;
}

bool is_gguf(const std::string& path) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false; // a pipe would be read from
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    char magic[4] = {};
    const bool ours = read(fd, magic, sizeof magic) == sizeof magic && std::memcmp(magic, "GGUF", 4) == 0;
    close(fd);
    return ours;
}

// Returns the one that `address` lies in; empty: none.
std::string mapped_files(const void* address, std::set<std::string>& paths) {
    std::FILE* maps = std::fopen("/proc/self/maps", "re");
    if (!maps) return {};
    std::string holder;
    char line[4352];
    while (std::fgets(line, sizeof line, maps)) {
        const char* path = std::strchr(line, '/');
        if (!path) continue;
        const std::string name(path, std::strcspn(path, "\n"));
        char* end = nullptr; // "7f00-7f80 r--s ..."
        const auto from = std::strtoull(line, &end, 16), to = *end == '-' ? std::strtoull(end + 1, nullptr, 16) : 0;
        const auto at = reinterpret_cast<uintptr_t>(address);
        if (at >= from && at < to) holder = name;
        paths.insert(name);
    }
    std::fclose(maps);
    return holder;
}

void open_files(std::set<std::string>& paths) {
    DIR* folder = opendir("/proc/self/fd");
    if (!folder) return;
    while (const dirent* entry = readdir(folder)) {
        char path[4096];
        const ssize_t n = readlinkat(dirfd(folder), entry->d_name, path, sizeof path);
        if (n > 0 && path[0] == '/') paths.insert(std::string(path, static_cast<size_t>(n)));
    }
    closedir(folder);
}

} // namespace

void remember_model(const char* path) noexcept {
    char* whole = path ? realpath(path, nullptr) : nullptr;
    if (!whole) return;
    try {
        const std::lock_guard lock(remembered_mutex);
        remembered().emplace_front(whole);
        if (remembered().size() > most_remembered) remembered().pop_back();
    } catch (const std::exception&) { // no memory: its texts may be missed
    }
    std::free(whole);
}

std::vector<std::string> open_models(const void* weight) {
    std::vector<std::string> models;
    std::set<std::string> others;
    models.push_back(mapped_files(weight, others));
    open_files(others);
    {
        const std::lock_guard lock(remembered_mutex);
        models.insert(models.end(), remembered().begin(), remembered().end());
    }
    models.insert(models.end(), others.begin(), others.end());
    std::vector<std::string> unique;
    for (const std::string& path : models) {
        if (std::find(unique.begin(), unique.end(), path) == unique.end() && is_gguf(path)) unique.push_back(path);
    }
    return unique;
}

} // namespace attnscope::attach
