#include "cli/info_table.h"

#include "cli/lines.h"
#include "cli/token_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include <unistd.h>

namespace attnscope::cli {

namespace {

constexpr int64_t most_tokens = 512; // a system's text may stand in front
constexpr size_t most_characters = 60;

// What stands before a user's words: ChatML, Llama 3, Gemma, Llama 2 and Mistral, Phi and Zephyr, gpt-oss, DeepSeek, Alpaca, Vicuna.
constexpr const char* user_marks[] = {"<|im_start|>user\n",
                                      "<|start_header_id|>user<|end_header_id|>\n\n",
                                      "<start_of_turn>user\n",
                                      "[INST]",
                                      "<|user|>\n",
                                      "<|start|>user<|message|>",
                                      "<\xEF\xBD\x9CUser\xEF\xBD\x9C>",
                                      "### Instruction:\n",
                                      "USER: "};
// And what behind them, or in front of a text.
constexpr const char* marks[] = {"<|", "<end_of_turn>", "[/INST]", "</s>", "<\xEF\xBD\x9C", "\n### ", " ASSISTANT:"};
constexpr const char* beginnings[] = {"<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "[CLS]"};

std::string after_mark(const std::string& text) {
    size_t begin = std::string::npos;
    for (const std::string mark : user_marks) {
        const size_t at = text.find(mark);
        if (at != std::string::npos) begin = std::min(begin, at + mark.size());
    }
    if (begin != std::string::npos) {
        size_t end = text.size();
        for (const char* mark : marks) end = std::min(end, text.find(mark, begin));
        return text.substr(begin, end - begin);
    }
    for (const std::string mark : beginnings) {
        if (text.rfind(mark, 0) == 0) return text.substr(mark.size());
    }
    return text;
}

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
    const Result<std::vector<Frame>> frames =
        recording.frames(0, std::min(recording.info().n_frames, most_tokens)); // of damaged ones `verify` tells
    std::string text;
    for (const Frame& frame : frames ? *frames : std::vector<Frame>()) text += recording.token_text(frame.token);
    text = after_mark(text);
    const size_t first = text.find_first_not_of(" \n\t\r");
    text = first == std::string::npos ? "" : text.substr(first);
    return cut(one_line(text.substr(0, 4 * most_characters)), most_characters);
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
    print("file", "tokens", "state", "begins");
    for (const InfoLine& line : lines) print(line.name, fmt::format("{}", line.n_tokens), line.state, line.begins);
}

} // namespace attnscope::cli
