#include "attach/wire/ring.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

constexpr size_t least_capacity = size_t(64) << 10;
constexpr size_t most_capacity = size_t(16) << 30;
// Behind this an empty ring is begun anew, so that the memory of the last messages, which the caches still hold, takes the next ones.
constexpr size_t few_bytes = size_t(1) << 20;
constexpr size_t most_populated = size_t(64) << 20; // of a ring of 16 GiB it would take half a minute
constexpr uint64_t from_the_beginning = ~uint64_t(0);

Error system_error(const std::string& what) {
    return {ErrorKind::io, what + ": " + std::strerror(errno)};
}

std::string wake_path(const std::string& folder) {
    return folder + "/wake";
}

std::string lock_path(const std::string& folder) {
    return folder + "/" + ParentLock::file_name;
}

// Held by nobody, as far as the system knows.
bool is_free(int fd) {
    if (flock(fd, LOCK_SH | LOCK_NB) != 0) return false;
    flock(fd, LOCK_UN);
    return true;
}

// An empty file in the place of a ring for which there was no room: who listens knows that there was somebody.
void leave_word(int fd, const std::string& unfinished, const std::string& path) {
    const std::string word = path + RingWriter::no_room;
    if (ftruncate(fd, 0) != 0 || rename(unfinished.c_str(), word.c_str()) != 0) unlink(unfinished.c_str());
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
    if (rlimit most{}; getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur < size) { // a signal would end the program
        leave_word(file.fd(), unfinished, path);
        errno = EFBIG;
        return system_error("no shared memory for " + path);
    }
    // The memory is there, or there is no ring: a page that cannot be had later would end the program with SIGBUS.
    if (const int failed = posix_fallocate(file.fd(), 0, static_cast<off_t>(size)); failed != 0) {
        leave_word(file.fd(), unfinished, path);
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
    madvise(at, std::min(size, most_populated),
            MADV_POPULATE_WRITE); // each page would be looked up when a token is first written there
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

// Into the ring, piece by piece; never more than was asked room for.
class RingWriter::Message : public ByteWriter {
public:
    Message(RingWriter& ring, uint64_t at, size_t room) : ring_(ring), at_(at), room_(room) {}

private:
    void put_bytes(std::span<const uint8_t> bytes) override {
        const size_t n = std::min(bytes.size(), room_);
        ring_.copy_in(at_, bytes.data(), n);
        at_ += n;
        room_ -= n;
    }
    RingWriter& ring_;
    uint64_t at_;
    size_t room_;
};

uint64_t RingWriter::used() const {
    return map_.header()->written.load(std::memory_order_relaxed) -
           map_.header()->taken.load(std::memory_order_acquire);
}

bool RingWriter::fills() const {
    return used() > capacity_ / 4;
}

bool RingWriter::try_write(size_t size, const std::function<void(ByteWriter&)>& put) {
    uint64_t at = map_.header()->written.load(std::memory_order_relaxed);
    const uint64_t in_use = used();
    if (in_use > capacity_ || size > capacity_ || size + sizeof(uint64_t) > capacity_ - in_use) return false;
    const uint64_t begin = at % capacity_, left = capacity_ - begin;
    if (in_use == 0 && begin > few_bytes && left >= sizeof from_the_beginning &&
        left + sizeof(uint64_t) + size <= capacity_) {
        copy_in(at, reinterpret_cast<const uint8_t*>(&from_the_beginning), sizeof from_the_beginning);
        at += left;
    }
    const uint64_t bytes = size;
    copy_in(at, reinterpret_cast<const uint8_t*>(&bytes), sizeof bytes);
    Message message(*this, at + sizeof bytes, size);
    put(message);
    map_.header()->written.store(at + sizeof bytes + bytes, std::memory_order_release);
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
    uint64_t there = map_.header()->written.load(std::memory_order_acquire) - taken_;
    if (there == 0) return false;
    uint64_t size = 0;
    if (there > capacity_ || there < sizeof size) return Error{ErrorKind::damaged, "the ring's counters make no sense"};
    copy_out(taken_, reinterpret_cast<uint8_t*>(&size), sizeof size);
    if (size == from_the_beginning) {
        const uint64_t left = capacity_ - taken_ % capacity_;
        if (left == capacity_ || there - sizeof size < left)
            return Error{ErrorKind::damaged, "the ring is begun anew where nothing is"};
        taken_ += left;
        there -= left;
        copy_out(taken_, reinterpret_cast<uint8_t*>(&size), sizeof size);
    }
    if (size > there - sizeof size)
        return Error{ErrorKind::damaged, "a message in the ring is longer than what was written"};
    message.resize(size);
    copy_out(taken_ + sizeof size, message.data(), message.size());
    taken_ += sizeof size + size;
    map_.header()->taken.store(taken_, std::memory_order_release);
    return true;
}

Result<std::unique_ptr<WakeUp>> WakeUp::create(const std::string& folder) {
    const std::string path = wake_path(folder);
    if (mkfifo(path.c_str(), 0600) != 0) return system_error("cannot make " + path);
    // For writing, too: without a writer it would be readable for ever.
    Descriptor file(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
    if (file.fd() < 0) return system_error("cannot open " + path);
    return std::unique_ptr<WakeUp>(new WakeUp(std::move(file)));
}

void WakeUp::take() {
    char calls[256];
    while (read(file_.fd(), calls, sizeof calls) > 0) {}
}

void WakeUp::call(const std::string& folder) {
    // For reading, too: of a pipe without a reader a signal would come, which ends programs.
    const Descriptor file(open(wake_path(folder).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
    struct stat info {};
    if (file.fd() < 0 || fstat(file.fd(), &info) != 0 || !S_ISFIFO(info.st_mode)) return;
    if (write(file.fd(), "!", 1) < 0) return; // full: it has been called
}

Result<std::unique_ptr<ParentLock>> ParentLock::hold(const std::string& folder) {
    const int fd = open(lock_path(folder).c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return system_error("cannot make " + lock_path(folder));
    std::unique_ptr<ParentLock> lock(new ParentLock(fd));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) return system_error("another parent uses " + folder);
    struct stat info {};
    if (fstat(fd, &info) != 0 || info.st_nlink == 0) { // taken away before we had it
        errno = ENOENT;
        return system_error("cannot make " + lock_path(folder));
    }
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
