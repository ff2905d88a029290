#include "cli/new_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <unistd.h>

namespace attnscope::cli {

NewFolder::~NewFolder() {
    std::for_each(made_.rbegin(), made_.rend(), [](const std::string& folder) { rmdir(folder.c_str()); });
}

std::string NewFolder::make(const std::string& folder) {
    namespace fs = std::filesystem;
    std::error_code failed, ignored;
    fs::path at;
    for (const fs::path& part : fs::path(folder)) {
        at /= part;
        if (fs::symlink_status(at, ignored).type() == fs::file_type::not_found) made_.push_back(at.string());
    }
    fs::create_directories(folder, failed);
    if (!fs::is_directory(folder, ignored)) {
        const bool is_there = fs::exists(folder, ignored);
        return is_there ? "it is no folder" : failed ? failed.message() : std::strerror(ENOTDIR);
    }
    return access(folder.c_str(), W_OK | X_OK) == 0 ? "" : std::strerror(errno);
}

} // namespace attnscope::cli
