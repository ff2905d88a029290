// Which GGUF files the program has open: mapped, or still open, or opened by name lately.
#include "attach/inside/stream.h"

#include <algorithm>
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

void mapped_files(std::set<std::string>& paths) {
    std::FILE* maps = std::fopen("/proc/self/maps", "re");
    if (!maps) return;
    char line[4352];
    while (std::fgets(line, sizeof line, maps)) {
        const char* path = std::strchr(line, '/');
        if (path) paths.insert(std::string(path, std::strcspn(path, "\n")));
    }
    std::fclose(maps);
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

void remember_model(const char* path) {
    char* whole = path ? realpath(path, nullptr) : nullptr;
    if (!whole) return;
    const std::lock_guard lock(remembered_mutex);
    remembered().emplace_front(whole);
    if (remembered().size() > most_remembered) remembered().pop_back();
    std::free(whole);
}

std::vector<std::string> open_models() {
    std::vector<std::string> models;
    std::set<std::string> others;
    mapped_files(others);
    open_files(others);
    {
        const std::lock_guard lock(remembered_mutex);
        models.assign(remembered().begin(), remembered().end());
    }
    models.insert(models.end(), others.begin(), others.end());
    std::vector<std::string> unique;
    for (const std::string& path : models) {
        if (std::find(unique.begin(), unique.end(), path) == unique.end() && is_gguf(path)) unique.push_back(path);
    }
    return unique;
}

} // namespace attnscope::attach
