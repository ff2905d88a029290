#include "attach/wire/ring.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

constexpr size_t least_capacity = size_t(64) << 10;
constexpr size_t most_capacity = size_t(16) << 30;

Error system_error(const std::string& what) {
    return {ErrorKind::io, what + ": " + std::strerror(errno)};
}

std::string lock_path(const std::string& folder) {
    return folder + "/parent.lock";
}

// Held by nobody, as far as the system knows.
bool is_free(int fd) {
    if (flock(fd, LOCK_SH | LOCK_NB) != 0) return false;
    flock(fd, LOCK_UN);
    return true;
}

} // namespace

Descriptor::~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
}

Mapping::~Mapping() {
    if (at_) munmap(at_, size_);
}

Result<std::unique_ptr<RingWriter>> RingWriter::create(const std::string& path, size_t capacity) {
    capacity = std::clamp(capacity, least_capacity, most_capacity);
    const std::string unfinished = path + ".new";
    Descriptor file(open(unfinished.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.fd() < 0) return system_error("cannot make " + unfinished);
    const size_t size = ring_header_bytes + capacity;
    // The memory is there, or there is no ring: a page that cannot be had later would end the program with SIGBUS.
    if (const int failed = posix_fallocate(file.fd(), 0, static_cast<off_t>(size)); failed != 0) {
        unlink(unfinished.c_str());
        errno = failed;
        return system_error("no shared memory for " + path);
    }
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
    if (at == MAP_FAILED) {
        unlink(unfinished.c_str());
        return system_error("cannot map " + path);
    }
    Mapping map(at, size);
#if defined(MADV_POPULATE_WRITE)
    madvise(at, size, MADV_POPULATE_WRITE); // each page would be looked up when a token is first written there
#endif
    RingHeader* header = new (at) RingHeader{};
    std::memcpy(header->magic, RingHeader::expected_magic, sizeof header->magic);
    header->capacity = capacity;
    header->pid = getpid();
    flock(file.fd(), LOCK_EX | LOCK_NB); // before it has its name: nobody else has it
    if (rename(unfinished.c_str(), path.c_str()) != 0) {
        unlink(unfinished.c_str());
        return system_error("cannot name " + path);
    }
    return std::unique_ptr<RingWriter>(new RingWriter(std::move(map), std::move(file), capacity));
}

void RingWriter::copy_in(uint64_t at, const uint8_t* from, size_t n) {
    const auto begin = static_cast<size_t>(at % capacity_);
    const size_t first = std::min(n, capacity_ - begin);
    std::memcpy(map_.data() + begin, from, first);
    std::memcpy(map_.data(), from + first, n - first);
}

bool RingWriter::try_write(std::span<const uint8_t> message) {
    const uint64_t size = message.size();
    const uint64_t written = map_.header()->written.load(std::memory_order_relaxed);
    const uint64_t used = written - map_.header()->taken.load(std::memory_order_acquire);
    if (used > capacity_ || size + sizeof size > capacity_ - used) return false;
    copy_in(written, reinterpret_cast<const uint8_t*>(&size), sizeof size);
    copy_in(written + sizeof size, message.data(), message.size());
    map_.header()->written.store(written + sizeof size + size, std::memory_order_release);
    return true;
}

Result<std::unique_ptr<RingReader>> RingReader::open(const std::string& path) {
    Descriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (file.fd() < 0) return system_error("cannot open " + path);
    struct stat info {};
    if (fstat(file.fd(), &info) != 0) return system_error("cannot open " + path);
    const auto size = static_cast<size_t>(std::max<off_t>(info.st_size, 0));
    if (!S_ISREG(info.st_mode) || size < ring_header_bytes + least_capacity || size > ring_header_bytes + most_capacity)
        return Error{ErrorKind::not_ours, path + " is no ring"};
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
    if (at == MAP_FAILED) return system_error("cannot map " + path);
    Mapping map(at, size);
    const RingHeader* header = map.header();
    if (std::memcmp(header->magic, RingHeader::expected_magic, sizeof header->magic) != 0 ||
        header->capacity != size - ring_header_bytes) {
        return Error{ErrorKind::not_ours, path + " is no ring"};
    }
    const int64_t pid = header->pid;
    return std::unique_ptr<RingReader>(new RingReader(std::move(map), std::move(file), size - ring_header_bytes, pid));
}

bool RingReader::ended() const {
    if (closed()) return true;
    // The number may be one of a container, the lock lost where a program closes whatever is open: both must say so.
    const auto pid = static_cast<pid_t>(pid_);
    return pid > 0 && kill(pid, 0) != 0 && errno == ESRCH && is_free(file_.fd());
}

void RingReader::copy_out(uint64_t at, uint8_t* to, size_t n) const {
    const auto begin = static_cast<size_t>(at % capacity_);
    const size_t first = std::min(n, capacity_ - begin);
    std::memcpy(to, map_.data() + begin, first);
    std::memcpy(to + first, map_.data(), n - first);
}

Result<bool> RingReader::read(std::vector<uint8_t>& message) {
    const uint64_t there = map_.header()->written.load(std::memory_order_acquire) - taken_;
    if (there == 0) return false;
    uint64_t size = 0;
    if (there > capacity_ || there < sizeof size) return Error{ErrorKind::damaged, "the ring's counters make no sense"};
    copy_out(taken_, reinterpret_cast<uint8_t*>(&size), sizeof size);
    if (size > there - sizeof size)
        return Error{ErrorKind::damaged, "a message in the ring is longer than what was written"};
    message.resize(size);
    copy_out(taken_ + sizeof size, message.data(), message.size());
    taken_ += sizeof size + size;
    map_.header()->taken.store(taken_, std::memory_order_release);
    return true;
}

Result<std::unique_ptr<ParentLock>> ParentLock::hold(const std::string& folder) {
    const int fd = open(lock_path(folder).c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return system_error("cannot make " + lock_path(folder));
    std::unique_ptr<ParentLock> lock(new ParentLock(fd));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) return system_error("another parent uses " + folder);
    return lock;
}

ParentLock::~ParentLock() {
    ::close(fd_);
}

bool ParentLock::held(const std::string& folder) {
    const Descriptor file(open(lock_path(folder).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (file.fd() < 0) return false;
    return flock(file.fd(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

} // namespace attnscope::attach
