#include "formats/write_whole.h"

#include "base/output_file.h"

#include <filesystem>

namespace attnscope::formats {

Result<void> output_is_free(const std::string& path) {
    return base::may_replace(path);
}

Result<void> output_folder_is_free(const std::string& folder) {
    namespace fs = std::filesystem;
    std::error_code failed;
    if (folder.empty()) return Error{ErrorKind::invalid_argument, "no folder to write into is named"};
    if (!fs::exists(folder, failed)) return {};
    if (fs::is_directory(folder, failed) && fs::is_empty(folder, failed) && !failed) return {};
    return Error{ErrorKind::invalid_argument, folder + " exists and is not an empty folder"};
}

Result<void> make_output_folder(const std::string& folder) {
    if (Result<void> free = output_folder_is_free(folder); !free) return free;
    std::error_code failed;
    std::filesystem::create_directories(folder, failed);
    if (failed) return Error{ErrorKind::io, "cannot create the folder " + folder + ": " + failed.message()};
    return {};
}

Result<void> write_whole(const std::string& path, std::string_view content) {
    auto file = base::OutputFile::create(path);
    if (!file) return file.error();
    (*file)->write(content.data(), content.size());
    return (*file)->finish();
}

} // namespace attnscope::formats
