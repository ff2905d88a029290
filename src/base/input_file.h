// Files of strangers, opened with care: regular files only, sizes known before anything is allocated.
#pragma once

#include <attnscope/error.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

namespace attnscope::base {

// Room for one token. Aligned to pages: `rep movsb`, with which Linux copies out of its page cache, is four
// times slower on AMD Zen 3 and 4 where the target lies 1 to 63 bytes above a page boundary, which is where
// malloc puts large blocks (glibc bug 30994). Large buffers are aligned to huge pages, and the system is asked for them:
// filling the first one takes a page fault for each page.
class TokenBuffer {
public:
    // The content is lost when the room has to grow.
    void resize(size_t n);
    float* data() { return data_.get(); }
    std::span<const float> values() const { return {data_.get(), n_}; }

private:
    struct Free {
        size_t alignment;
        void operator()(float* data) const;
    };
    std::unique_ptr<float[], Free> data_{nullptr, Free{1}};
    size_t n_ = 0;
    size_t room_ = 0;
};

class InputFile {
public:
    // A path that a person gave: links are followed.
    static Result<InputFile> open(const std::string& path);
    // A name found inside a folder: a symbolic link is refused, so that a folder cannot reach outside itself.
    static Result<InputFile> open_in(int folder, const std::string& name, const std::string& shown_path);

    InputFile(InputFile&& other) noexcept;
    InputFile& operator=(InputFile&& other) noexcept;
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;
    ~InputFile();

    int64_t size() const { return size_; }
    const std::string& path() const { return path_; }
    // Exactly n bytes from `offset`; damaged when the file ends before.
    Result<void> read_at(int64_t offset, void* out, size_t n) const;
    // The whole file as text; unsupported above `limit` bytes.
    Result<std::string> read_text(int64_t limit) const;

private:
    InputFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
    static Result<InputFile> from_fd(int fd, const std::string& path);
    int fd_ = -1;
    int64_t size_ = 0;
    std::string path_;
};

// Bytes read forwards from any place: a stretch of a file, or a member of an archive (where going back begins anew).
class ByteStream {
public:
    virtual ~ByteStream() = default;
    virtual Result<void> seek(int64_t offset) = 0;      // the next read begins there; past the end: damaged
    virtual Result<void> read(void* out, size_t n) = 0; // exactly n bytes, or damaged
};

} // namespace attnscope::base
