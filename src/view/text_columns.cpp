// From characters of a prompt to the columns of its tokens.
#include <attnscope/attention_request.h>

#include <algorithm>

namespace attnscope {

namespace {

Error refuse(const std::string& message) {
    return {ErrorKind::invalid_argument, message};
}

// Bytes of the UTF-8 sequence that starts at `at`; 0 where none does (RFC 3629: no surrogates, nothing overlong, nothing
// above U+10FFFF).
size_t sequence_length(std::string_view text, size_t at) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(at);
    if (lead < 0x80) return 1;
    const size_t n = lead >= 0xc2 && lead < 0xe0   ? 2
                     : lead >= 0xe0 && lead < 0xf0 ? 3
                     : lead >= 0xf0 && lead < 0xf5 ? 4
                                                   : 0;
    if (n == 0 || at + n > text.size()) return 0;
    for (size_t i = 1; i < n; ++i) {
        if ((byte(at + i) & 0xc0) != 0x80) return 0;
    }
    const uint8_t second = byte(at + 1);
    const bool bad = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                     (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
    return bad ? 0 : n;
}

// Where each character begins, and where the text ends.
Result<std::vector<size_t>> character_starts(std::string_view text) {
    std::vector<size_t> starts;
    for (size_t at = 0; at < text.size();) {
        const size_t n = sequence_length(text, at);
        if (n == 0) return refuse("the text is not UTF-8 at byte " + std::to_string(at));
        starts.push_back(at);
        at += n;
    }
    starts.push_back(text.size());
    return starts;
}

// The bytes that each piece spells: [begin, end), begin == end where it spells nothing.
Result<std::vector<Range>> bytes_of_pieces(std::span<const std::string> pieces, std::string_view text) {
    std::vector<Range> bytes;
    size_t at = 0;
    for (const std::string& piece : pieces) {
        std::string_view rest = piece;
        // put there by the tokeniser
        if (at == 0 && rest.starts_with(' ') && !text.starts_with(' ')) rest.remove_prefix(1);
        const size_t n = text.substr(at).starts_with(rest) ? rest.size() : 0;
        bytes.push_back({static_cast<int64_t>(at), static_cast<int64_t>(at + n)});
        at += n;
    }
    if (at != text.size())
        return refuse("the tokens do not spell the text beyond byte " + std::to_string(at) +
                      ", so its characters have no columns: give spans of tokens instead");
    return bytes;
}

} // namespace

Result<std::vector<Range>> columns_of_characters(std::span<const std::string> pieces, std::string_view text,
                                                 std::span<const Range> characters, int64_t first_column) {
    auto starts = character_starts(text);
    if (!starts) return starts.error();
    auto bytes = bytes_of_pieces(pieces, text);
    if (!bytes) return bytes.error();
    const auto n_characters = static_cast<int64_t>(starts->size()) - 1;
    std::vector<Range> columns;
    for (size_t i = 0; i < characters.size(); ++i) {
        const Range& range = characters[i];
        if (range.begin < 0 || range.end < range.begin || range.end > n_characters) {
            return refuse("characters [" + std::to_string(range.begin) + ", " + std::to_string(range.end) +
                          ") are not inside the text of " + std::to_string(n_characters) + " characters");
        }
        const auto begin = static_cast<int64_t>((*starts)[static_cast<size_t>(range.begin)]);
        const auto end = static_cast<int64_t>((*starts)[static_cast<size_t>(range.end)]);
        // The first piece that ends beyond the begin, and the first that begins at the end: pieces are in order, and those
        // that spell nothing are skipped at both sides.
        const auto first =
            std::partition_point(bytes->begin(), bytes->end(), [&](const Range& b) { return b.end <= begin; });
        auto last = first;
        if (begin < end) {
            last = std::partition_point(first, bytes->end(), [&](const Range& b) { return b.begin < end; });
        }
        columns.push_back({first_column + (first - bytes->begin()), first_column + (last - bytes->begin())});
    }
    return columns;
}

} // namespace attnscope
