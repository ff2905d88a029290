#include "cli/serve_arguments.h"

#include <algorithm>
#include <cctype>

namespace attnscope::cli {

namespace {

bool is_option(const std::string& word) {
    return word.size() > 1 && word[0] == '-' && !std::isdigit(static_cast<unsigned char>(word[1])) && word[1] != '.';
}

// The option of ours that a word names; null: none.
const CLI::Option* option_of(const CLI::App& serve, const std::string& word) {
    return is_option(word) ? serve.get_option_no_throw(word.substr(0, word.find('='))) : nullptr;
}

} // namespace

std::vector<std::string> sort_serve_arguments(const CLI::App& serve, const std::vector<std::string>& words) {
    std::vector<std::string> sorted;
    const auto pass_on = [&](const std::string& word) { sorted.push_back(std::string(engine_argument) + "=" + word); };
    for (size_t i = 0; i < words.size(); ++i) {
        if (words[i] == "--") {
            std::for_each(words.begin() + static_cast<std::ptrdiff_t>(i) + 1, words.end(), pass_on);
            break;
        }
        const CLI::Option* ours = option_of(serve, words[i]);
        if (!ours) {
            pass_on(words[i]);
            continue;
        }
        sorted.push_back(words[i]);
        const bool takes_value = ours->get_items_expected_max() > 0 && words[i].find('=') == std::string::npos;
        if (takes_value && i + 1 < words.size() && words[i + 1] != "--") sorted.push_back(words[++i]);
    }
    return sorted;
}

Result<void> no_stray_word(const std::vector<std::string>& words) {
    bool after_option = false;
    for (size_t i = 0; i < words.size(); ++i) {
        const bool option = is_option(words[i]);
        // some options of llama-server's take two values, the second a number
        if (!option && !after_option && (i == 0 || words[i].ends_with(".gguf")))
            return Error{ErrorKind::invalid_argument,
                         words[i] + " stands behind no option; a model follows -m: attnscope serve -m " + words[i]};
        after_option = option;
    }
    return {};
}

} // namespace attnscope::cli
