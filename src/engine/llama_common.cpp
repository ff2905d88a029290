// The few functions of llama.cpp's common.cpp that its chat templates call. That file itself would bring its command line,
// its samplers and its downloads with it.
#include <common.h>

std::string common_token_to_piece(const llama_vocab* vocab, llama_token token, bool special) {
    std::string piece(32, '\0');
    int32_t n = llama_token_to_piece(vocab, token, piece.data(), static_cast<int32_t>(piece.size()), 0, special);
    if (n < 0) {
        piece.resize(size_t(-n));
        n = llama_token_to_piece(vocab, token, piece.data(), static_cast<int32_t>(piece.size()), 0, special);
    }
    piece.resize(n < 0 ? 0 : size_t(n));
    return piece;
}

std::vector<llama_token> common_tokenize(const llama_vocab* vocab, const std::string& text, bool add_special,
                                         bool parse_special) {
    std::vector<llama_token> tokens(text.size() + 2);
    const int32_t n = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                     static_cast<int32_t>(tokens.size()), add_special, parse_special);
    tokens.resize(n < 0 ? 0 : size_t(n));
    return tokens;
}

std::string string_join(const std::vector<std::string>& values, const std::string& separator) {
    std::string out;
    for (size_t i = 0; i < values.size(); ++i) out += (i == 0 ? std::string() : separator) + values[i];
    return out;
}

std::vector<std::string> string_split(const std::string& text, const std::string& delimiter) {
    std::vector<std::string> parts;
    size_t start = 0;
    for (size_t end = text.find(delimiter); end != std::string::npos; end = text.find(delimiter, start)) {
        parts.push_back(text.substr(start, end - start));
        start = end + delimiter.size();
    }
    parts.push_back(text.substr(start));
    return parts;
}

std::string string_repeat(const std::string& text, size_t n) {
    std::string out;
    for (size_t i = 0; i < n; ++i) out += text;
    return out;
}

void string_replace_all(std::string& text, const std::string& search, const std::string& replacement) {
    if (search.empty()) return;
    for (size_t at = text.find(search); at != std::string::npos; at = text.find(search, at + replacement.size())) {
        text.replace(at, search.size(), replacement);
    }
}

bool tty_can_use_colors() {
    return false;
}
