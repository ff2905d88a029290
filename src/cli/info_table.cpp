#include "cli/info_table.h"

#include "cli/lines.h"
#include "cli/token_text.h"
#include "server/view/glances.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include <unistd.h>

namespace attnscope::cli {

namespace {

constexpr size_t most_characters = 60;

bool begins_character(char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
}

size_t width(const std::string& text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

std::string cut(const std::string& text, size_t characters) {
    if (width(text) <= characters) return text;
    size_t at = 0;
    for (size_t n = 0; at < text.size(); ++at) {
        if (begins_character(text[at]) && n++ == characters - 3) break;
    }
    return text.substr(0, at) + "...";
}

std::string padded(const std::string& text, size_t columns) {
    return text + std::string(columns - std::min(columns, width(text)), ' ');
}

} // namespace

std::string first_words(Recording& recording) {
    return cut(one_line(server::words_of_sequence(recording, recording.sequences()[0], 0)), most_characters);
}

void print_lines(const std::vector<InfoLine>& lines) {
    size_t names = 4, states = 5;
    for (const InfoLine& line : lines) {
        names = std::max(names, width(line.name));
        states = std::max(states, line.state.size());
    }
    // On a terminal a long name has a line of its own, and words are as long as there is room.
    const bool terminal = isatty(STDOUT_FILENO) != 0;
    const size_t most = page_width - 2 - 8 - states - 2;
    const bool own_line = terminal && names > most - 16;
    const size_t room = !terminal ? most_characters : own_line ? most - 4 : most - names - 2;
    const auto print = [&](const std::string& name, const std::string& n, const std::string& state,
                           const std::string& words) {
        fmt::print("{}  {:>7}  {}{}\n", own_line ? name + "\n  " : padded(name, names), n, padded(state, states),
                   words.empty() ? "" : "  " + cut(words, room));
    };
    print("file", "tokens", "state", "words");
    for (const InfoLine& line : lines) print(line.name, fmt::format("{}", line.n_tokens), line.state, line.words);
}

} // namespace attnscope::cli
