#include "attach/parent/attached_settings.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <string_view>

namespace attnscope::attach {

namespace {

constexpr std::string_view hidden = "***";

bool is_space(char c) {
    return std::isspace(static_cast<unsigned char>(c)) != 0;
}
bool is_of_name(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
}

bool is_number(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789.+-") == std::string_view::npos;
}

// "api", "key" of "--api-key" and of API_KEY.
std::vector<std::string> words_of(std::string_view name) {
    std::vector<std::string> words(1);
    for (const char c : name) {
        if (std::isalnum(static_cast<unsigned char>(c)) != 0)
            words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        else if (!words.back().empty())
            words.emplace_back();
    }
    if (words.back().empty() && words.size() > 1) words.pop_back();
    return words;
}

enum class Names { nothing, a_secret, a_secret_or_a_number };

// "tokens" may count them, "token" in front may belong to a limit ("--token-budget"): a number is none.
Names what_it_names(std::string_view name) {
    if (name == "-hft") return Names::a_secret; // llama-server's --hf-token
    if (name.rfind("tokenizer.", 0) == 0)
        return Names::nothing; // "--override-kv tokenizer.ggml.add_bos_token=bool:false"
    const std::vector<std::string> words = words_of(name);
    const auto is_one_of = [](const std::string& word, std::initializer_list<std::string_view> all) {
        return std::find(all.begin(), all.end(), word) != all.end();
    };
    if (is_one_of(words.back(), {"file", "path", "dir", "folder"})) return Names::nothing;
    if (words.front() == "no" && words.size() > 1 && name[0] == '-') return Names::nothing;
    bool number = false;
    for (const std::string& word : words) {
        const bool always = word.find("secret") != std::string::npos || word.find("passw") != std::string::npos ||
                            word.ends_with("pass") || (word == "pwd" && name != "PWD" && name != "OLDPWD") ||
                            is_one_of(word, {"passphrase", "auth", "authorization", "credential", "credentials"});
        const bool ends = word.ends_with("key") || word.ends_with("token");
        if (always || (ends && &word == &words.back())) return Names::a_secret;
        number = number || ends || word.ends_with("keys") || word.ends_with("tokens");
    }
    return number ? Names::a_secret_or_a_number : Names::nothing;
}

bool is_secret(std::string_view name, std::string_view value) {
    const Names names = what_it_names(name);
    const bool option = value.starts_with('-') && value.size() > 1; // behind a switch like "--print-tokens"
    return names == Names::a_secret || (names == Names::a_secret_or_a_number && !is_number(value) && !option);
}

// "https://NAME:PASSWORD@host"
std::string without_password(std::string word) {
    const size_t scheme = word.find("://");
    if (scheme == std::string::npos) return word;
    const size_t begin = scheme + 3, end = std::min(word.find('/', begin), word.size());
    const size_t at = word.rfind('@', end);
    if (at == std::string::npos || at < begin || at >= end) return word;
    return word.replace(begin, at - begin, hidden);
}

// One word of a command line, whose own name may be that of a secret.
std::string clean_word(const std::string& word) {
    for (size_t equals = word.find('='); equals != std::string::npos; equals = word.find('=', equals + 1)) {
        size_t begin = equals;
        while (begin > 0 && is_of_name(word[begin - 1])) --begin;
        const std::string_view name = std::string_view(word).substr(begin, equals - begin);
        const std::string_view value = std::string_view(word).substr(equals + 1);
        const bool in_path = begin > 0 && word[begin - 1] == '/';
        if (!value.empty() && !in_path && is_secret(name, value))
            return without_password(word.substr(0, equals + 1)) + std::string(hidden);
    }
    return without_password(word);
}

// "--api-key=V", whatever V is; in a line for a shell its first word alone would be that.
bool begins_with_secret(const std::string& word) {
    const size_t equals = word.find('=');
    return equals != std::string::npos && std::all_of(word.data(), word.data() + equals, is_of_name) &&
           is_secret(word.substr(0, equals), word.substr(equals + 1));
}

// The option whose value is the next word; empty: none.
std::string option_before_value(const std::string& word) {
    const bool is = word.size() > 1 && word[0] == '-' && word.find('=') == std::string::npos;
    return is ? word : std::string();
}

// The end of a word of a shell's line: what is quoted belongs to it with its spaces.
size_t end_of_word(const std::string& line, size_t at) {
    char quote = '\0';
    for (; at < line.size() && (quote != '\0' || !is_space(line[at])); ++at) {
        if (line[at] == quote)
            quote = '\0';
        else if (quote == '\0' && (line[at] == '"' || line[at] == '\''))
            quote = line[at];
    }
    return at;
}

// The same of a whole line: of "sh -c".
std::string clean_line(const std::string& line) {
    std::string out, option;
    for (size_t at = 0; at < line.size();) {
        if (is_space(line[at])) {
            out += line[at++];
            continue;
        }
        const size_t end = end_of_word(line, at);
        const std::string word = line.substr(at, end - at);
        out += !option.empty() && is_secret(option, word) ? std::string(hidden) : clean_word(word);
        option = option_before_value(word);
        at = end;
    }
    return out;
}

} // namespace

std::vector<std::string> without_secrets(const std::vector<std::string>& argv) {
    std::vector<std::string> out;
    std::string option;
    for (const std::string& word : argv) {
        const bool of_shell = option.starts_with('-') && !option.starts_with("--") && option.ends_with('c'); // "sh -lc"
        const bool is_line = std::any_of(word.begin(), word.end(), is_space) && (of_shell || !begins_with_secret(word));
        if (!option.empty() && is_secret(option, word))
            out.emplace_back(hidden);
        else
            out.push_back(is_line ? clean_line(word) : clean_word(word));
        option =
            option_before_value(word); // also of a word that was hidden: the option before it may have been a switch
    }
    return out;
}

std::string attached_settings(const std::vector<std::string>& argv) {
    return nlohmann::json{{"attached", without_secrets(argv)}}.dump(-1, ' ', false,
                                                                    nlohmann::json::error_handler_t::replace);
}

} // namespace attnscope::attach
