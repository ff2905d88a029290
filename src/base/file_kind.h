// What a file that is not ours seems to be, for the sentence that refuses it.
#pragma once

#include <string>
#include <string_view>

namespace attnscope::base {

inline constexpr std::string_view sqlite_magic{"SQLite format 3\0", 16};

struct FileKind {
    std::string name; // "a GGUF model"; "a file of no kind that is known here" where nothing else fits
    // what to do with it, with `path` in it: "attnscope capture -m x.gguf captures from it"; may be empty
    std::string todo;
};

// Judged by the first bytes alone; 64 and more are enough.
FileKind file_kind(std::string_view start, const std::string& path);

} // namespace attnscope::base
