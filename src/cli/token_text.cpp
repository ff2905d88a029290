#include "cli/token_text.h"

#include <cstdint>

namespace attnscope::cli {

namespace {

// Length of the UTF-8 character at `at`, 0 if it is broken, -1 if it is cut off by the end.
int character_length(const std::string& s, size_t at) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
    const uint8_t b = byte(at);
    const int n = b < 0x80 ? 1 : b >= 0xC2 && b < 0xE0 ? 2 : b >= 0xE0 && b < 0xF0 ? 3 : b >= 0xF0 && b < 0xF5 ? 4 : 0;
    for (int i = 1; i < n; ++i) {
        if (at + size_t(i) >= s.size()) return -1;
        if ((byte(at + size_t(i)) & 0xC0) != 0x80) return 0;
    }
    return n;
}

constexpr const char* replacement = "\xEF\xBF\xBD";

} // namespace

std::string printable(const std::string& text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
        const int n = character_length(text, at);
        const auto b = static_cast<uint8_t>(text[at]);
        const bool c1 = n == 2 && b == 0xC2 && static_cast<uint8_t>(text[at + 1]) < 0xA0; // C1 controls
        if (n <= 0 || c1 || (n == 1 && (b < 0x20 || b == 0x7F) && b != '\n' && b != '\t')) {
            out += replacement;
            at += n > 0 ? size_t(n) : 1;
        } else {
            out.append(text, at, size_t(n));
            at += size_t(n);
        }
    }
    return out;
}

std::string one_line(const std::string& text) {
    std::string out;
    for (const char c : printable(text)) {
        if (c == '\n')
            out += "\\n";
        else if (c == '\t')
            out += "\\t";
        else
            out += c;
    }
    return out;
}

std::vector<TextRun> text_runs(const std::vector<std::string>& pieces) {
    std::vector<TextRun> runs;
    std::string open;
    size_t first = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
        if (open.empty()) first = i;
        open += pieces[i];
        bool cut = false;
        for (size_t at = 0; at < open.size();) {
            const int n = character_length(open, at);
            if (n < 0) {
                cut = true;
                break;
            }
            at += n > 0 ? size_t(n) : 1;
        }
        // A character has at most 4 bytes: what is still open after that many tokens is broken, not cut.
        if (cut && i - first < 4 && i + 1 < pieces.size()) continue;
        runs.push_back({first, i, printable(open)});
        open.clear();
    }
    return runs;
}

} // namespace attnscope::cli
