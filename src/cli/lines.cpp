#include "cli/lines.h"

#include <algorithm>

#include <unistd.h>

namespace attnscope::cli {

std::string wrapped(const std::string& text, size_t indent) {
    std::string out;
    size_t column = indent, at = 0;
    while (at < text.size()) {
        const size_t end = std::min(text.find(' ', at), text.size());
        const auto begins_letter = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }; // UTF-8
        const auto word = static_cast<size_t>(
            std::count_if(text.begin() + std::ptrdiff_t(at), text.begin() + std::ptrdiff_t(end), begins_letter));
        if (column > indent && column + 1 + word > page_width) {
            out += '\n';
            out.append(indent, ' ');
            column = indent;
        } else if (column > indent) {
            out += ' ';
            ++column;
        }
        out.append(text, at, end - at);
        column += word;
        at = end + 1;
    }
    return out;
}

std::string for_reader(std::FILE* file, const std::string& text, size_t indent) {
    return isatty(fileno(file)) != 0 ? wrapped(text, indent) : text;
}

} // namespace attnscope::cli
