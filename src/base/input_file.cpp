#include "base/input_file.h"

#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::base {

namespace {

Error system_error(const std::string& path, const char* doing) {
    const int code = errno;
    if (code == ELOOP) {
        return {ErrorKind::unsupported, path + " is a symbolic link, which is not followed inside a capture folder"};
    }
    const ErrorKind kind = code == ENOENT || code == ENOTDIR ? ErrorKind::not_found : ErrorKind::io;
    return {kind, std::string(doing) + " " + path + ": " + std::strerror(code)};
}

} // namespace

namespace {
constexpr size_t page = 4096;
constexpr size_t huge_page = size_t(2) << 20;
} // namespace

void TokenBuffer::Free::operator()(float* data) const {
    ::operator delete (data, std::align_val_t{alignment});
}

void TokenBuffer::resize(size_t n) {
    if (n > room_) {
        data_.reset();
        room_ = 0;
        const size_t room = n + n / 8; // tokens grow by a column at a time
        const size_t bytes = room * sizeof(float);
        const size_t alignment = bytes >= huge_page ? huge_page : page;
        void* memory = ::operator new (bytes, std::align_val_t{alignment});
#ifdef MADV_HUGEPAGE
        if (alignment == huge_page) ::madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE); // a wish
#endif
        data_ = std::unique_ptr<float[], Free>(static_cast<float*>(memory), Free{alignment});
        room_ = room;
    }
    n_ = n;
}

// O_NONBLOCK: opening a named pipe must not wait for its other end. It changes nothing for regular files.
Result<InputFile> InputFile::open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return system_error(path, "cannot open");
    return from_fd(fd, path);
}

Result<InputFile> InputFile::open_in(int folder, const std::string& name, const std::string& shown_path) {
    const int fd = ::openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) return system_error(shown_path, "cannot open");
    return from_fd(fd, shown_path);
}

Result<InputFile> InputFile::from_fd(int fd, const std::string& path) {
    InputFile file(fd, path);
    struct stat status {};
    if (fstat(fd, &status) != 0) return system_error(path, "cannot look at");
    if (!S_ISREG(status.st_mode)) return Error{ErrorKind::not_ours, path + " is not a regular file"};
    file.size_ = status.st_size;
    return file;
}

InputFile::InputFile(InputFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), size_(other.size_), path_(std::move(other.path_)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    std::swap(path_, other.path_);
    return *this;
}

InputFile::~InputFile() {
    if (fd_ >= 0) ::close(fd_);
}

Result<void> InputFile::read_at(int64_t offset, void* out, size_t n) const {
    char* at = static_cast<char*>(out);
    while (n > 0) {
        const ssize_t got = ::pread(fd_, at, n, offset);
        if (got < 0) {
            if (errno == EINTR) continue;
            return Error{ErrorKind::io, "cannot read " + path_ + ": " + std::strerror(errno)};
        }
        if (got == 0) {
            return Error{ErrorKind::damaged, path_ + " ends at byte " + std::to_string(offset) + ", " +
                                                 std::to_string(n) + " bytes too early"};
        }
        at += got;
        offset += got;
        n -= static_cast<size_t>(got);
    }
    return {};
}

Result<std::string> InputFile::read_text(int64_t limit) const {
    if (size_ > limit) {
        return Error{ErrorKind::unsupported, path_ + " has " + std::to_string(size_) + " bytes, more than the " +
                                                 std::to_string(limit) + " that are read of such a file"};
    }
    std::string text(static_cast<size_t>(size_), '\0');
    if (auto done = read_at(0, text.data(), text.size()); !done) return done.error();
    return text;
}

} // namespace attnscope::base
