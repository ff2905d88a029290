// The tokeniser's keys: what llama.cpp's llama_vocab::impl::load() asserts.
#include "gguf/gguf_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace attnscope::gguf {
namespace {

constexpr std::string_view tokenizers[] = {"llama", "gpt2",   "gemma4",    "bert",       "t5",
                                           "rwkv",  "plamo2", "hybriddna", "whitespace", "test"};
constexpr uint32_t max_tokens = 1u << 24;

// Texts are C strings in llama.cpp: they end at a zero byte, and an empty one gets a name made of its number.
std::string as_llama_sees(std::string_view text, uint64_t id) {
    std::string seen(text.substr(0, text.find('\0')));
    return seen.empty() ? fmt::format("[EMPTY_{}]", id) : seen;
}

struct TokenHash {
    size_t hash;
    uint32_t id;
    uint64_t offset;
};

std::string text_at(GgufSource& source, const TokenHash& token) {
    GgufKey one;
    one.count = 1;
    one.offset = token.offset - 8;
    GgufStrings strings(source, one);
    const auto text = strings.next();
    return as_llama_sees(text.value_or(""), token.id);
}

// Two tokens of one text make llama.cpp abort.
Result<void> check_tokens_differ(const GgufCheck& c, const GgufKey& key) {
    std::vector<TokenHash> hashes;
    hashes.reserve(size_t(key.count));
    GgufStrings strings(c.source, key);
    for (uint32_t id = 0; id < key.count; ++id) {
        const auto text = strings.next();
        if (!text) return c.damaged(fmt::format("cannot be read at token {} of key {}", id, key.name));
        if (text->size() >= 65536)
            return c.damaged(fmt::format("has a token {} of 64 KiB or more in key {}", id, key.name));
        hashes.push_back({std::hash<std::string>()(as_llama_sees(*text, id)), id, strings.offset()});
    }
    std::sort(hashes.begin(), hashes.end(), [](const TokenHash& a, const TokenHash& b) { return a.hash < b.hash; });
    for (size_t begin = 0; begin < hashes.size();) {
        size_t end = begin + 1;
        while (end < hashes.size() && hashes[end].hash == hashes[begin].hash) ++end;
        std::vector<std::pair<std::string, uint32_t>> texts; // almost always of one
        for (size_t i = begin; end - begin > 1 && i < end; ++i)
            texts.emplace_back(text_at(c.source, hashes[i]), hashes[i].id);
        std::sort(texts.begin(), texts.end());
        for (size_t i = 1; i < texts.size(); ++i) {
            if (texts[i].first == texts[i - 1].first) {
                return c.damaged(fmt::format("has the same text for tokens {} and {} in key {}", texts[i - 1].second,
                                             texts[i].second, key.name));
            }
        }
        begin = end;
    }
    return {};
}

Result<const GgufKey*> array_of(const GgufCheck& c, const char* name, std::initializer_list<GgufType> elements,
                                bool required) {
    const GgufKey* key = c.file.find(name);
    if (key == nullptr) {
        if (required) return c.damaged(fmt::format("has no key {}", name));
        return key;
    }
    if (key->type != GgufType::array || std::find(elements.begin(), elements.end(), key->element) == elements.end()) {
        return c.damaged(
            fmt::format("has a key {} that is not an array of {}", name, gguf_value_type_name(*elements.begin())));
    }
    return key;
}

// Arrays that go along with the tokens must be as long.
Result<void> check_companion(const GgufCheck& c, const char* name, std::initializer_list<GgufType> elements,
                             uint64_t n_tokens) {
    const auto key = array_of(c, name, elements, false);
    if (!key) return key.error();
    if (*key != nullptr && (*key)->count < n_tokens) {
        return c.damaged(fmt::format("has {} tokens, but only {} elements in key {}", n_tokens, (*key)->count, name));
    }
    return {};
}

// A tokeniser that is told to add a token it does not have aborts when it is used.
Result<void> check_added(const GgufCheck& c, const char* add, const char* id, bool has_default, uint64_t n_tokens) {
    const GgufKey* wants = c.file.find(add);
    if (wants == nullptr || wants->boolean() != true) return {};
    const GgufKey* key = c.file.find(id);
    const bool named = key != nullptr && key->u32().has_value() && *key->u32() < n_tokens;
    if (named || has_default) return {};
    return c.damaged(fmt::format("asks for a token to be added ({}), but has no valid key {}", add, id));
}

} // namespace

Result<void> check_vocabulary(GgufCheck& c) {
    const GgufKey* model = c.file.find("tokenizer.ggml.model");
    if (model == nullptr) return c.damaged("has no key tokenizer.ggml.model: it comes without a tokeniser");
    if (model->type != GgufType::string) return c.damaged("has a key tokenizer.ggml.model that is not a string");
    if (model->text == "none" || model->text == "no_vocab") {
        const auto n = c.required_u32("vocab_size", max_tokens);
        if (!n) return n.error();
        c.summary.n_vocab = int32_t(*n);
        return {};
    }
    if (std::find(std::begin(tokenizers), std::end(tokenizers), model->text) == std::end(tokenizers)) {
        return c.unsupported(fmt::format("has a tokeniser (tokenizer.ggml.model) that llama.cpp does not know"));
    }
    // With texts that are not its own this tokeniser runs forever.
    if (model->text == "rwkv" && c.arch->kind != ArchKind::recurrent) {
        return c.unsupported(fmt::format("has a tokeniser of RWKV models with architecture {}", c.arch->name));
    }
    const auto tokens = array_of(c, "tokenizer.ggml.tokens", {GgufType::string}, true);
    if (!tokens) return tokens.error();
    const uint64_t n = (*tokens)->count;
    if (n == 0) return c.damaged("has no tokens in key tokenizer.ggml.tokens");
    c.summary.n_vocab = int32_t(n);
    if (auto r = check_companion(c, "tokenizer.ggml.scores", {GgufType::float32, GgufType::int32}, n); !r) return r;
    if (auto r = check_companion(c, "tokenizer.ggml.token_type", {GgufType::int32}, n); !r) return r;
    const bool merging = model->text == "gpt2" || model->text == "gemma4";
    const GgufKey* pre = c.file.find("tokenizer.ggml.pre");
    const bool needs_merges = merging && !(pre != nullptr && pre->text == "kimi-k2");
    if (const auto merges = array_of(c, "tokenizer.ggml.merges", {GgufType::string}, needs_merges);
        merging && !merges) {
        return merges.error();
    }
    const bool chatglm = pre != nullptr && (pre->text == "glm4" || pre->text == "chatglm-bpe");
    const bool bos = (model->text == "llama" && n > 1) || (model->text == "gpt2" && n > 11 && !chatglm);
    const bool eos = (model->text == "llama" && n > 2) || (model->text == "gpt2" && n > 11);
    if (auto r = check_added(c, "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", bos, n); !r) return r;
    if (auto r = check_added(c, "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", eos, n); !r) return r;
    return check_tokens_differ(c, **tokens);
}

} // namespace attnscope::gguf
