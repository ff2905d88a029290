#include "gguf/gguf_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::gguf {
namespace {

// Reads through a window, with pread: a file that shrinks meanwhile yields an error and not a signal, as a
// mapping would.
class FileSource : public GgufSource {
public:
    FileSource(int fd, uint64_t size) : fd_(fd), size_(size) {}
    ~FileSource() override { close(fd_); }
    FileSource(const FileSource&) = delete;
    FileSource& operator=(const FileSource&) = delete;

    uint64_t size() const override { return size_; }

    bool read(uint64_t offset, std::span<uint8_t> out) override {
        if (offset > size_ || out.size() > size_ - offset) return false;
        while (!out.empty()) {
            if (offset < start_ || offset >= start_ + window_.size()) {
                if (!load(offset)) return false;
            }
            const size_t n = std::min(out.size(), size_t(start_ + window_.size() - offset));
            std::memcpy(out.data(), &window_[offset - start_], n);
            out = out.subspan(n);
            offset += n;
        }
        return true;
    }

private:
    bool load(uint64_t offset) {
        window_.resize(size_t(std::min<uint64_t>(size_ - offset, 256 * 1024)));
        start_ = offset;
        size_t have = 0;
        while (have < window_.size()) {
            const ssize_t n = pread(fd_, &window_[have], window_.size() - have, off_t(offset + have));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) break;
            have += size_t(n);
        }
        window_.resize(have);
        return have > 0;
    }

    int fd_;
    uint64_t size_;
    uint64_t start_ = 0;
    std::vector<uint8_t> window_;
};

class MemorySource : public GgufSource {
public:
    explicit MemorySource(std::span<const uint8_t> bytes) : bytes_(bytes) {}
    uint64_t size() const override { return bytes_.size(); }
    bool read(uint64_t offset, std::span<uint8_t> out) override {
        if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return false;
        if (!out.empty()) std::memcpy(out.data(), &bytes_[size_t(offset)], out.size());
        return true;
    }

private:
    std::span<const uint8_t> bytes_;
};

} // namespace

Result<std::unique_ptr<GgufSource>> open_gguf_source(const std::string& path) {
    // Non-blocking, so that a pipe in the place of a file does not hang us.
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        const ErrorKind kind = errno == ENOENT ? ErrorKind::not_found : ErrorKind::io;
        return Error{kind, fmt::format("cannot open {}: {}", path, std::strerror(errno))};
    }
    struct stat status = {};
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        return Error{ErrorKind::not_ours, fmt::format("{} is not a regular file", path)};
    }
    return std::unique_ptr<GgufSource>(std::make_unique<FileSource>(fd, uint64_t(status.st_size)));
}

std::unique_ptr<GgufSource> memory_gguf_source(std::span<const uint8_t> bytes) {
    return std::make_unique<MemorySource>(bytes);
}

} // namespace attnscope::gguf
