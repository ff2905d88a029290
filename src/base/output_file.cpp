#include "base/output_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <unistd.h>

namespace attnscope::base {

namespace fs = std::filesystem;

Result<void> may_replace(const std::string& path) {
    std::error_code failed;
    const fs::file_status status = fs::symlink_status(path, failed);
    if (status.type() == fs::file_type::not_found || fs::is_regular_file(status)) return {};
    const char* what = fs::is_directory(status)                                     ? "a folder"
                       : fs::is_symlink(status)                                     ? "a link"
                       : fs::is_fifo(status)                                        ? "a pipe"
                       : fs::is_character_file(status) || fs::is_block_file(status) ? "a device"
                                                                                    : "no regular file";
    return Error{ErrorKind::invalid_argument,
                 path + " is " + what + ": only a regular file is replaced; choose another name"};
}

OutputFile::OutputFile(std::string path)
    : path_(std::move(path)), part_(path_ + ".part-" + std::to_string(getpid())),
      out_(part_, std::ios::binary | std::ios::trunc) {}

Result<std::unique_ptr<OutputFile>> OutputFile::create(const std::string& path) {
    if (auto free = may_replace(path); !free) return free.error();
    std::unique_ptr<OutputFile> file(new OutputFile(path));
    if (!file->good()) return file->error();
    return file;
}

OutputFile::~OutputFile() {
    if (finished_) return;
    out_.close();
    std::error_code ignored;
    fs::remove(part_, ignored);
}

Error OutputFile::error() const {
    return {ErrorKind::io, "cannot write " + path_ + ": " + std::strerror(errno)};
}

Result<void> OutputFile::finish() {
    out_.close();
    if (!out_) return error();
    if (auto free = may_replace(path_); !free) return free;
    if (std::rename(part_.c_str(), path_.c_str()) != 0) return error();
    finished_ = true;
    return {};
}

} // namespace attnscope::base
