#include "server/view/first_words.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace attnscope::server {

namespace {

// How templates mark that a user speaks.
constexpr std::array<std::string_view, 9> user_begins{"<|im_start|>user",
                                                      "<|start_header_id|>user<|end_header_id|>",
                                                      "<start_of_turn>user",
                                                      "<|start|>user<|message|>",
                                                      "<|user|>",
                                                      "<|User|>",
                                                      "<\xef\xbd\x9cUser\xef\xbd\x9c>",
                                                      "<|turn>user",
                                                      "[INST]"};
constexpr std::array<std::string_view, 10> turn_ends{"<|im_end|>",
                                                     "<|eot_id|>",
                                                     "<end_of_turn>",
                                                     "<|end|>",
                                                     "[/INST]",
                                                     "<turn|>",
                                                     "<|assistant|>",
                                                     "<|Assistant|>",
                                                     "</s>",
                                                     "<\xef\xbd\x9c"
                                                     "Assistant\xef\xbd\x9c>"};
constexpr std::array<std::string_view, 6> bare_marks{"<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>"};
constexpr std::string_view space = " \t\r\n";

std::string_view without_space(std::string_view text) {
    return text.substr(std::min(text.find_first_not_of(space), text.size()));
}

// How many bytes the mark takes with which the text begins; 0: it begins with none.
size_t mark_at(std::string_view text) {
    for (const std::string_view mark : bare_marks)
        if (text.starts_with(mark)) return mark.size();
    if (!text.starts_with("<|")) return 0;
    constexpr size_t longest = 64;
    const size_t end = text.substr(0, longest).find("|>");
    return end == std::string_view::npos ? 0 : end + 2;
}

// Up to where a turn ends.
std::string_view one_turn(std::string_view text) {
    for (const std::string_view mark : turn_ends) text = text.substr(0, text.find(mark));
    return text;
}

} // namespace

bool is_mark(const std::string& piece) {
    return !piece.empty() && mark_at(piece) == piece.size();
}

std::string without_marks(const std::string& text) {
    std::string_view out = without_space(text);
    while (const size_t n = mark_at(out)) out = without_space(out.substr(n));
    return std::string(one_turn(out));
}

std::optional<std::string> last_turn(const std::string& text) {
    size_t begin = 0;
    for (const std::string_view mark : user_begins) {
        const size_t at = text.rfind(mark);
        if (at != std::string::npos) begin = std::max(begin, at + mark.size());
    }
    const std::string_view turn = without_space(one_turn(std::string_view(text).substr(begin)));
    return begin > 0 && !turn.empty() ? std::optional(std::string(turn)) : std::nullopt;
}

} // namespace attnscope::server
