// Files that we write for others: whole or not at all. Nothing but a regular file is ever replaced.
#pragma once

#include <attnscope/error.h>

#include <cstddef>
#include <fstream>
#include <memory>
#include <string>

namespace attnscope::base {

// Nothing is at `path`, or a regular file. A device, a pipe, a folder or a link is never unlinked for an output: an error.
Result<void> may_replace(const std::string& path);

// Written beside its name and renamed when it is finished; removed where it was not.
class OutputFile {
public:
    static Result<std::unique_ptr<OutputFile>> create(const std::string& path);
    ~OutputFile();
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;
    void write(const void* data, size_t n) {
        out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(n));
    }
    bool good() const { return out_.good(); }
    Error error() const; // of a write that failed
    Result<void> finish();

private:
    explicit OutputFile(std::string path);
    std::string path_, part_;
    std::ofstream out_;
    bool finished_ = false;
};

} // namespace attnscope::base
