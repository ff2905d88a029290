// What verbs write beside recordings: whole or not at all, and only in the place of a regular file.
#pragma once

#include <attnscope/error.h>

#include <string>
#include <string_view>

namespace attnscope::formats {

// Nothing is at `path`, or a regular file.
Result<void> output_is_free(const std::string& path);
Result<void> write_whole(const std::string& path, std::string_view content);

} // namespace attnscope::formats
