#include "server/front/prompt_bound.h"

#include "base/bounded_json.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <bitset>
#include <optional>
#include <string_view>

namespace attnscope::server {

namespace {

constexpr size_t short_enough = size_t(1) << 20; // bytes: read and cut in no time
// Of what the program tells of a token: by it a text that may be few tokens is not asked about.
constexpr size_t usual_token = 8;

// Counts the numbers in the array under one name of the outermost object, and reads no further than `most`, unless it has to go on `to_end`:
// of two members of that name readers take the last.
class IdCounter final : public Json::json_sax_t {
public:
    IdCounter(std::string_view name, int64_t most, bool to_end) : name_(name), most_(most), to_end_(to_end) {}
    bool too_many() const { return n_ > most_; }

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return number(); }
    bool number_unsigned(number_unsigned_t) override { return number(); }
    bool number_float(number_float_t, const string_t&) override { return number(); }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(size_t) override { return deeper(); }
    bool end_object() override { return higher(); }
    bool start_array(size_t) override { return deeper(); }
    bool end_array() override { return higher(); }
    bool key(string_t& name) override {
        if (depth_ != 1) return true;
        named_ = name == name_;
        if (named_) n_ = 0;
        return true;
    }
    bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

private:
    bool number() { return depth_ != 2 || !named_ || ++n_ <= most_ || to_end_; }
    bool deeper() {
        ++depth_;
        return true;
    }
    bool higher() {
        --depth_;
        return true;
    }

    const std::string_view name_;
    const int64_t most_;
    const bool to_end_;
    int64_t depth_ = 0, n_ = 0;
    bool named_ = false;
};

// May this JSON have two members of that name? Letters of a name may be written as \u00XX.
bool may_stand_twice(const std::string& body, const char* name) {
    const std::string quoted = fmt::format("\"{}\"", name);
    const size_t first = body.find(quoted);
    return body.find("\\u00") != std::string::npos ||
           (first != std::string::npos && body.find(quoted, first + 1) != std::string::npos);
}

int32_t context_of(const LlamaProgram& program) {
    const Result<LlamaProps> props = program.props();
    return props ? props->n_ctx : 0;
}

Error does_not_fit(const std::string& what, int32_t n_ctx) {
    return {ErrorKind::invalid_argument, fmt::format("{}; at most {} {} {}", what, n_ctx - 1, context_overflow, n_ctx)};
}

bool is_space(unsigned char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

// How much of a text a token of this piece may stand for, without the space around it. A space in it may be a character of three bytes:
// the one that SentencePiece writes for it, which a text may hold itself.
size_t reach_of(const std::string& piece) {
    size_t n = 0;
    for (const unsigned char c : piece) n += c == ' ' ? 3 : 1;
    return n;
}

// How many tokens its vocabulary has. Nothing: its tokeniser may make one token of a text of any length (a word that it does not know), or
// changes the text before it cuts it; only of these two kinds (SentencePiece, BPE) it is known that they do neither.
std::optional<int64_t> n_tokens_of_known_kind(const LlamaProgram& program) {
    const Result<Json> models = program.get("/v1/models");
    if (!models || !models->is_object() || !models->contains("data") || !(*models)["data"].is_array()) return {};
    const Json& data = (*models)["data"];
    if (data.empty() || !data[0].is_object() || !data[0].contains("meta") || !data[0]["meta"].is_object()) return {};
    const auto kind = base::json_integer(data[0]["meta"], "vocab_type", 1, 2);
    return kind ? base::json_integer(data[0]["meta"], "n_vocab", 1, 1 << 20) : std::nullopt;
}

struct Vocabulary {
    size_t longest = 128;   // bytes of a text that one token may stand for; those that it tells no piece of are shorter
    std::bitset<256> bytes; // that have a token of their own: others may be left out of a text
};
// Nothing: it is not known what it makes of a text.
std::optional<Vocabulary> vocabulary_of(const LlamaProgram& program) {
    const std::optional<int64_t> n = n_tokens_of_known_kind(program);
    if (!n) return {};
    const Result<std::vector<std::string>> pieces = program.pieces(static_cast<int32_t>(*n));
    if (!pieces) return {};
    Vocabulary out;
    for (const std::string& piece : *pieces) {
        out.longest = std::max(out.longest, reach_of(piece));
        if (piece.size() == 1) out.bytes.set(static_cast<unsigned char>(piece[0]));
    }
    return out;
}

template <typename F> void for_each_text(const OrderedJson& prompt, const F& f) {
    if (prompt.is_string()) return f(prompt.get_ref<const std::string&>());
    if (!prompt.is_array()) return;
    for (const OrderedJson& part : prompt) {
        if (part.is_string()) f(part.get_ref<const std::string&>());
    }
}

} // namespace

Result<void> check_n_ids(const LlamaProgram& program, const std::string& body, const char* name, int32_t n_ctx) {
    if (body.size() < short_enough) return {};
    if (n_ctx <= 0) n_ctx = context_of(program);
    if (n_ctx <= 0) return {};
    IdCounter counter(name, n_ctx - 1, may_stand_twice(body, name));
    Json::sax_parse(body, &counter); // what else is wrong with it is said by whoever reads it
    if (!counter.too_many()) return {};
    return does_not_fit(fmt::format("the prompt has at least {} tokens", n_ctx), n_ctx);
}

Result<void> check_length(const LlamaProgram& program, const OrderedJson& prompt) {
    size_t size = 0, n = 0;
    for_each_text(prompt, [&](const std::string& text) { size += text.size(); });
    if (size < short_enough) return {};
    const int32_t n_ctx = context_of(program);
    if (n_ctx <= 0 || size / usual_token < static_cast<size_t>(n_ctx)) return {};
    const std::optional<Vocabulary> vocabulary = vocabulary_of(program);
    if (!vocabulary) return {};
    const auto counts = [&](unsigned char c) { return vocabulary->bytes[c] && !is_space(c); };
    for_each_text(prompt, [&](const std::string& text) {
        n += static_cast<size_t>(std::count_if(text.begin(), text.end(), counts));
    });
    if (n / vocabulary->longest <= static_cast<size_t>(n_ctx)) return {};
    return does_not_fit(fmt::format("the prompt has more than {} tokens", n_ctx), n_ctx);
}

} // namespace attnscope::server
