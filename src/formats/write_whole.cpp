#include "formats/write_whole.h"

#include "base/output_file.h"

namespace attnscope::formats {

Result<void> output_is_free(const std::string& path) {
    return base::may_replace(path);
}

Result<void> write_whole(const std::string& path, std::string_view content) {
    auto file = base::OutputFile::create(path);
    if (!file) return file.error();
    (*file)->write(content.data(), content.size());
    return (*file)->finish();
}

} // namespace attnscope::formats
