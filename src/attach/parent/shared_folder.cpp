#include "attach/parent/shared_folder.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

constexpr std::string_view prefix = "attnscope-attach-", random_part = "XXXXXX"; // as mkdtemp() wants it
constexpr std::time_t no_more_young = 60;                                        // seconds
constexpr int most_attempts = 16;

bool is_our_name(std::string_view name) {
    return name.size() == prefix.size() + random_part.size() && name.substr(0, prefix.size()) == prefix &&
           std::all_of(name.begin() + prefix.size(), name.end(), [](unsigned char c) { return std::isalnum(c) != 0; });
}

std::vector<std::string> names_in(int folder) {
    std::vector<std::string> names;
    const int again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); // its place in the folder is its own
    DIR* const open = again < 0 ? nullptr : fdopendir(again);
    if (!open) {
        if (again >= 0) ::close(again);
        return names;
    }
    while (const dirent* entry = readdir(open)) {
        const std::string_view name = entry->d_name;
        if (name != "." && name != "..") names.emplace_back(name);
    }
    closedir(open);
    return names;
}

// Anybody may make anything of any name in these places: it is opened first, and then told by what was opened.
bool is_our_folder(int fd) {
    struct stat info {};
    return fstat(fd, &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid() && (info.st_mode & 0077) == 0;
}

enum class Parent { lives, gone, unknown };

// The lock is kept in `lock` where the parent is gone, so that two who remove one folder come one after the other.
Parent parent_of(int folder, Descriptor& lock) {
    struct stat info {};
    if (lock.fd() < 0) {
        // Killed, or not yet there, between making the folder and the lock. One without anything costs nothing meanwhile.
        const bool is_old =
            errno == ENOENT && fstat(folder, &info) == 0 && info.st_mtime < std::time(nullptr) - no_more_young;
        return is_old && names_in(folder).empty() ? Parent::gone : Parent::unknown;
    }
    if (fstat(lock.fd(), &info) != 0 || !S_ISREG(info.st_mode)) return Parent::unknown;
    return flock(lock.fd(), LOCK_EX | LOCK_NB) == 0 ? Parent::gone : Parent::lives;
}

bool remove_if_left(int place, const std::string& name) {
    const Descriptor folder(openat(place, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (folder.fd() < 0 || !is_our_folder(folder.fd())) return false;
    Descriptor lock(openat(folder.fd(), ParentLock::file_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (parent_of(folder.fd(), lock) != Parent::gone) return false;
    // Names, never what they lead to; and no folder, for there is none in one of ours. The lock goes last: a folder that could not be
    // emptied is tried again.
    for (const std::string& inside : names_in(folder.fd())) {
        if (inside != ParentLock::file_name) unlinkat(folder.fd(), inside.c_str(), 0);
    }
    const std::vector<std::string> left = names_in(folder.fd());
    if (left.size() > 1 || (left.size() == 1 && left[0] != ParentLock::file_name)) return false;
    unlinkat(folder.fd(), ParentLock::file_name, 0);
    return unlinkat(place, name.c_str(), AT_REMOVEDIR) == 0;
}

} // namespace

size_t remove_left_folders(const std::string& place) {
    const Descriptor open(::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (open.fd() < 0) return 0;
    size_t n = 0;
    for (const std::string& name : names_in(open.fd())) n += is_our_name(name) && remove_if_left(open.fd(), name);
    return n;
}

Result<SharedFolder> make_shared_folder_in(const std::string& place) {
    Error last{ErrorKind::io, "cannot make a folder in " + place};
    // Until it is locked another parent may take it for one that was left.
    for (int attempt = 0; attempt < most_attempts; ++attempt) {
        SharedFolder folder{place + "/" + std::string(prefix) + std::string(random_part), nullptr};
        if (!mkdtemp(folder.path.data()))
            return Error{ErrorKind::io, "cannot make a folder in " + place + ": " + std::strerror(errno)};
        Result<std::unique_ptr<ParentLock>> lock = ParentLock::hold(folder.path);
        if (lock) {
            folder.lock = std::move(*lock);
            return folder;
        }
        last = lock.error();
        rmdir(folder.path.c_str());
    }
    return last;
}

Result<SharedFolder> make_shared_folder() {
    const char* const places[] = {"/dev/shm", std::getenv("XDG_RUNTIME_DIR"), std::getenv("TMPDIR"), "/tmp"};
    for (const char* at : places) {
        if (at && *at) remove_left_folders(at);
    }
    Result<SharedFolder> folder = Error{ErrorKind::io, "no place"};
    for (const char* at : places) {
        if (!at || access(at, W_OK | X_OK) != 0) continue;
        folder = make_shared_folder_in(at);
        if (folder) return folder;
    }
    return Error{ErrorKind::io, "no folder in shared memory can be made (/dev/shm, TMPDIR)"};
}

} // namespace attnscope::attach
