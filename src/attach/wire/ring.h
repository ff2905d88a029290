// Shared memory between a program (one writer, under its own mutex) and the parent (one reader).
//
//   file   RingHeader, one page | `capacity` bytes of messages, the place of byte n of all ever written: n mod capacity
//   message  uint64 size of what follows | body
//            or uint64 all ones: the next one lies at the beginning of the ring
//
// `written` grows with a release store once a message lies in memory as a whole: whatever ends the program afterwards, the reader
// gets it. A part of a message is never seen. `taken` grows when the reader has copied a message out.
#pragma once

#include "attach/wire/bytes.h"

#include <attnscope/error.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::attach {

struct RingHeader {
    static constexpr char expected_magic[8] = {'A', 'T', 'N', 'R', 'I', 'N', 'G', '1'};
    char magic[8];
    uint64_t capacity;
    int64_t pid; // of the program, as it knows itself
    alignas(64) std::atomic<uint64_t> written;
    alignas(64) std::atomic<uint64_t> taken;
    alignas(64) std::atomic<uint64_t> closed; // 1: the program took its leave; nothing follows
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");
constexpr size_t ring_header_bytes = 4096;
static_assert(sizeof(RingHeader) <= ring_header_bytes);

class Mapping {
public:
    Mapping() = default;
    Mapping(void* at, size_t size) : at_(at), size_(size) {}
    ~Mapping();
    Mapping(Mapping&& other) noexcept : at_(other.at_), size_(other.size_) { other.at_ = nullptr; }
    Mapping& operator=(Mapping&&) = delete;
    RingHeader* header() const { return static_cast<RingHeader*>(at_); }
    uint8_t* data() const { return static_cast<uint8_t*>(at_) + ring_header_bytes; }

private:
    void* at_ = nullptr;
    size_t size_ = 0;
};

// An open file.
class Descriptor {
public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor();
    Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
    Descriptor& operator=(Descriptor&&) = delete;
    int fd() const { return fd_; }

private:
    int fd_;
};

// The program's side.
class RingWriter {
public:
    // Makes `path`, whole from the moment in which it has its name.
    static Result<std::unique_ptr<RingWriter>> create(const std::string& path, size_t capacity);
    // Behind the name of a ring for which there was no memory: an empty file.
    static constexpr const char* no_room = ".no-room";
    // A message of `size` bytes, which `put` puts. False: there is no room now, and nothing was written.
    bool try_write(size_t size, const std::function<void(ByteWriter&)>& put);
    // Could a message of this size ever be written?
    bool fits(size_t bytes) const { return bytes + sizeof(uint64_t) <= capacity_; }
    // Is more there than the reader should leave until it looks by itself?
    bool fills() const;
    void close() { map_.header()->closed.store(1, std::memory_order_release); }

private:
    RingWriter(Mapping map, Descriptor file, size_t capacity)
        : map_(std::move(map)), file_(std::move(file)), capacity_(capacity) {}
    class Message;
    void copy_in(uint64_t at, const uint8_t* from, size_t n);
    uint64_t used() const;
    Mapping map_;
    const Descriptor file_; // locked: the system lets go of it however the program ends
    size_t capacity_;       // our own: what lies in the file may be written by anybody
};

// The parent's side. The file is a stranger's.
class RingReader {
public:
    static Result<std::unique_ptr<RingReader>> open(const std::string& path);
    // False: nothing there now. Error: what lies there is no message.
    Result<bool> read(std::vector<uint8_t>& message);
    bool closed() const { return map_.header()->closed.load(std::memory_order_acquire) != 0; }
    int64_t pid() const { return pid_; }
    // Nothing is written any more: the program took its leave, or it is gone. In doubt (a process of that number that is another
    // one) it is believed to be there.
    bool ended() const;

private:
    RingReader(Mapping map, Descriptor file, size_t capacity, int64_t pid)
        : map_(std::move(map)), file_(std::move(file)), capacity_(capacity), pid_(pid) {}
    void copy_out(uint64_t at, uint8_t* to, size_t n) const;
    Mapping map_;
    const Descriptor file_;
    size_t capacity_;
    int64_t pid_;
    uint64_t taken_ = 0;
};

// By which a program wakes the parent: a named pipe in its folder. No descriptor is kept on the program's side, which may close whatever
// is open.
class WakeUp {
public:
    static Result<std::unique_ptr<WakeUp>> create(const std::string& folder);
    int fd() const { return file_.fd(); } // readable: somebody has called
    void take();
    static void call(const std::string& folder);

private:
    explicit WakeUp(Descriptor file) : file_(std::move(file)) {}
    Descriptor file_;
};

// Held by the parent while it lives, asked for by programs: a lock on a file works in containers, where process numbers do not.
class ParentLock {
public:
    static constexpr const char* file_name = "parent.lock"; // in the parent's folder
    static Result<std::unique_ptr<ParentLock>> hold(const std::string& folder);
    ~ParentLock();
    // Is there a parent for this folder?
    static bool held(const std::string& folder);

private:
    explicit ParentLock(int fd) : fd_(fd) {}
    int fd_;
};

} // namespace attnscope::attach
