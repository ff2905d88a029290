// One writer a name: who creates a recording holds a lock on its file until it is closed, which a crash releases.
#pragma once

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <utility>

namespace attnscope::recording {

class NameClaim {
public:
    NameClaim() = default;
    // Creates an empty file at `path` that is ours. One that is there is refused, or removed with its logs where
    // `overwrite` says so, it is a regular file, and nobody writes it.
    static Result<NameClaim> take(const std::string& path, bool overwrite);
    // Of a recording that is there and that nobody writes: it is ours again.
    static Result<NameClaim> keep(const std::string& path);
    // This process writes the file at `path`. Whoever closes a file gives up all locks that its process has on it, SQLite's
    // among them: such a file is opened by SQLite alone.
    static bool held_here(const std::string& path);
    ~NameClaim() { release(); }
    NameClaim(NameClaim&& other) noexcept : fd_(std::exchange(other.fd_, -1)), file_(other.file_) {}
    NameClaim& operator=(NameClaim&& other) noexcept;
    // Closes the file: only after SQLite has closed it, because closing gives up all locks of the process on it.
    void release();

private:
    void remember();
    int fd_ = -1;
    std::pair<uint64_t, uint64_t> file_; // device and number
};

} // namespace attnscope::recording
