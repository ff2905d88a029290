// What verbs write beside recordings: whole or not at all, and only in the place of a regular file that may be replaced.
#pragma once

#include <attnscope/error.h>

#include <string>
#include <string_view>

namespace attnscope::formats {

// Nothing is at `path`, or a regular file.
Result<void> output_is_free(const std::string& path);
// Nothing is there, or an empty folder: what lies in one would be read as a part of what is written.
Result<void> output_folder_is_free(const std::string& folder);
// Makes it where it is not there.
Result<void> make_output_folder(const std::string& folder);
Result<void> write_whole(const std::string& path, std::string_view content);

} // namespace attnscope::formats
