#include "recording/name_claim.h"

#include "base/mutex.h"
#include "base/output_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::recording {

namespace fs = std::filesystem;

namespace {

// Files that this process writes: locks belong to processes, so this has to be one list for all.
struct Written {
    base::Mutex mutex;
    std::set<std::pair<uint64_t, uint64_t>> files GUARDED_BY(mutex);
};
Written& written() {
    static Written files;
    return files;
}

constexpr const char* log_suffixes[] = {"-wal", "-shm", "-journal"};

Error another_writes(const std::string& path) {
    return {ErrorKind::io, fmt::format("cannot write {}: another capture is writing it", path)};
}

bool is_at(int fd, const std::string& path) {
    struct stat open {
    }, named{};
    return fstat(fd, &open) == 0 && lstat(path.c_str(), &named) == 0 && open.st_dev == named.st_dev &&
           open.st_ino == named.st_ino;
}

// A log without its file may hold somebody's frames. Only under the lock of the file at `path`: until then they may be those of whoever
// has just begun to write it.
Result<void> clear_logs(const std::string& path, bool overwrite) {
    for (const char* suffix : log_suffixes) {
        const std::string name = path + suffix;
        std::error_code failed;
        if (fs::symlink_status(name, failed).type() == fs::file_type::not_found) continue;
        if (!overwrite)
            return Error{ErrorKind::invalid_argument, fmt::format("{} exists already and is not overwritten", name)};
        if (auto free = base::may_replace(name); !free) return free;
        if (::unlink(name.c_str()) != 0)
            return Error{ErrorKind::io, fmt::format("cannot replace {}: {}", name, std::strerror(errno))};
    }
    return {};
}

// Removes what is at `path`, unless somebody writes it.
Result<void> make_way(const std::string& path, bool overwrite) {
    if (!overwrite)
        return Error{ErrorKind::invalid_argument, fmt::format("{} exists already and is not overwritten", path)};
    if (auto free = base::may_replace(path); !free) return free;
    if (NameClaim::held_here(path)) return another_writes(path);
    const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return {}; // gone meanwhile: what comes there next is somebody's
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        ::close(fd);
        return another_writes(path);
    }
    Result<void> done;
    if (fd >= 0 && !is_at(fd, path)) done = another_writes(path); // replaced between the two looks
    if (done) done = clear_logs(path, overwrite);
    if (done && ::unlink(path.c_str()) != 0)
        done = Error{ErrorKind::io, fmt::format("cannot replace {}: {}", path, std::strerror(errno))};
    if (fd >= 0) ::close(fd);
    return done;
}

} // namespace

Result<NameClaim> NameClaim::take(const std::string& path, bool overwrite) {
    std::error_code failed;
    if (fs::symlink_status(path, failed).type() != fs::file_type::not_found) {
        if (auto way = make_way(path, overwrite); !way) return way.error();
    }
    NameClaim claim;
    claim.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (claim.fd_ < 0) {
        if (errno == EEXIST) return another_writes(path);
        return Error{ErrorKind::io, fmt::format("cannot write {}: {}", path, std::strerror(errno))};
    }
    // Between the two calls another may have taken the new file for an old one.
    if ((flock(claim.fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) || !is_at(claim.fd_, path))
        return another_writes(path);
    if (auto logs = clear_logs(path, overwrite); !logs) {
        ::unlink(path.c_str());
        return logs.error();
    }
    claim.remember();
    return claim;
}

Result<NameClaim> NameClaim::keep(const std::string& path) {
    if (held_here(path)) return another_writes(path);
    NameClaim claim;
    claim.fd_ = ::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (claim.fd_ < 0) return Error{ErrorKind::io, fmt::format("cannot write {}: {}", path, std::strerror(errno))};
    if ((flock(claim.fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) || !is_at(claim.fd_, path))
        return another_writes(path);
    claim.remember();
    return claim;
}

void NameClaim::remember() {
    struct stat named {};
    if (fstat(fd_, &named) != 0) return;
    file_ = {named.st_dev, named.st_ino};
    base::Lock lock(written().mutex);
    written().files.insert(file_);
}

bool NameClaim::held_here(const std::string& path) {
    struct stat named {};
    if (stat(path.c_str(), &named) != 0) return false;
    base::Lock lock(written().mutex);
    return written().files.count({named.st_dev, named.st_ino}) > 0;
}

NameClaim& NameClaim::operator=(NameClaim&& other) noexcept {
    if (this != &other) {
        release();
        fd_ = std::exchange(other.fd_, -1);
        file_ = other.file_;
    }
    return *this;
}

void NameClaim::release() {
    if (fd_ < 0) return;
    {
        base::Lock lock(written().mutex);
        written().files.erase(file_);
    }
    ::close(std::exchange(fd_, -1));
}

} // namespace attnscope::recording
