#include "base/file_kind.h"

#include <algorithm>
#include <cstdint>

namespace attnscope::base {

namespace {

bool is_text(std::string_view start) {
    return !start.empty() && std::all_of(start.begin(), start.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= 0x20 || byte == '\n' || byte == '\r' || byte == '\t'; // UTF-8 beyond ASCII included
    });
}

// safetensors: the size of a JSON header in 8 bytes, little-endian, and the header.
bool is_safetensors(std::string_view start) {
    if (start.size() < 9 || start[8] != '{') return false;
    uint64_t size = 0;
    for (size_t i = 8; i-- > 0;) size = size << 8 | static_cast<unsigned char>(start[i]);
    return size >= 2 && size < uint64_t(1) << 32;
}

} // namespace

FileKind file_kind(std::string_view start, const std::string& path) {
    const auto begins = [&](std::string_view magic) { return start.substr(0, magic.size()) == magic; };
    const std::string diagnose = "attnscope diagnose " + path + " says what is in it";
    if (begins("GGUF")) return {"a GGUF model", "attnscope capture -m " + path + " makes a recording with it"};
    if (begins("\x93NUMPY")) return {"a NumPy array", diagnose};
    if (begins("PK\3\4") || begins("PK\5\6")) return {"a zip archive, as .npz is one", diagnose};
    if (begins(sqlite_magic))
        return {"another program's SQLite database, or a recording whose beginning is damaged", ""};
    if (begins("\x7f"
               "ELF"))
        return {"a program", ""};
    if (begins("\x1f\x8b")) return {"a gzip file", "unpack it first"};
    if (begins("(\xb5\x2f\xfd")) return {"a zstd file", "unpack it first"};
    if (is_safetensors(start)) return {"a safetensors file", diagnose};
    if (is_text(start)) {
        const size_t first = start.find_first_not_of(" \n\r\t");
        if (first != std::string_view::npos && (start[first] == '{' || start[first] == '['))
            return {"JSON", "a token of a capture folder is looked at with the folder: attnscope diagnose FOLDER"};
        return {"text", ""};
    }
    if (!start.empty() && std::all_of(start.begin(), start.end(), [](char c) { return c == 0; }))
        return {"a file that begins with zeros", "it may never have been written to its end"};
    return {"a file of no kind that is known here", "raw float32 is read by attnscope diagnose --shape"};
}

} // namespace attnscope::base
