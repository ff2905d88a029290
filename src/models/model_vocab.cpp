// Tokenisers of made models: a tiny one of bytes, or a copy of a real one.
#include "gguf/gguf_file.h"
#include "models/model_plan.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace attnscope::models {
namespace fs = std::filesystem;

namespace {

// Token types, as in llama.h (LLAMA_TOKEN_TYPE_*).
enum TokenType : int32_t { normal = 1, unknown = 2, control = 3, unused = 5, byte = 6 };

constexpr const char* chat_template =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

struct Tokens {
    std::vector<std::string> text;
    std::vector<int32_t> type;
    std::vector<float> score;
};

void write_tokens(const Tokens& tokens, gguf_context* keys) {
    std::vector<const char*> text;
    for (const std::string& t : tokens.text) text.push_back(t.c_str());
    gguf_set_arr_str(keys, "tokenizer.ggml.tokens", text.data(), text.size());
    gguf_set_arr_data(keys, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, tokens.type.data(), tokens.type.size());
    if (!tokens.score.empty()) {
        gguf_set_arr_data(keys, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, tokens.score.data(), tokens.score.size());
    }
}

void pad(Tokens& tokens, int32_t n_vocab) {
    for (int32_t id = int32_t(tokens.text.size()); id < n_vocab; ++id) {
        tokens.text.push_back(fmt::format("[PAD{}]", id));
        tokens.type.push_back(unused);
        if (!tokens.score.empty()) tokens.score.push_back(-1e6f);
    }
}

// SentencePiece with nothing but its byte fallback: any text is one token a byte and comes back unchanged.
int32_t tiny_vocabulary(int32_t n_vocab, gguf_context* keys) {
    Tokens tokens;
    tokens.text = {"<unk>", "<s>", "</s>"};
    tokens.type = {unknown, control, control};
    for (int value = 0; value < 256; ++value) {
        tokens.text.push_back(fmt::format("<0x{:02X}>", value));
        tokens.type.push_back(byte);
    }
    // SentencePiece writes a space as U+2581; without a token of its own it would come back as that.
    tokens.text.push_back("\xE2\x96\x81");
    tokens.type.push_back(normal);
    tokens.score.assign(tokens.text.size(), 0.0f);
    pad(tokens, n_vocab);
    gguf_set_val_str(keys, "tokenizer.ggml.model", "llama");
    write_tokens(tokens, keys);
    gguf_set_val_u32(keys, "tokenizer.ggml.unknown_token_id", 0);
    gguf_set_val_u32(keys, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(keys, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_bool(keys, "tokenizer.ggml.add_bos_token", true);
    gguf_set_val_bool(keys, "tokenizer.ggml.add_eos_token", false);
    gguf_set_val_bool(keys, "tokenizer.ggml.add_space_prefix", false);
    gguf_set_val_str(keys, "tokenizer.chat_template", chat_template);
    return int32_t(tokens.text.size());
}

// Where llama.cpp's sources keep tokenisers without weights: the folder that ATTNSCOPE_VOCAB_DIR names, else that of the tree
// in which this program was built, found from where the program lies (build*/bin/): no path is baked into it.
fs::path vocabulary_folder() {
    if (const char* named = std::getenv("ATTNSCOPE_VOCAB_DIR"); named && *named) return named;
    std::error_code ec;
    const fs::path program = fs::read_symlink("/proc/self/exe", ec);
    return program.parent_path().parent_path().parent_path() / ".deps" / "llama.cpp" / "models";
}

Result<std::string> vocabulary_file(const ModelShape& shape) {
    std::error_code ec;
    if (fs::is_regular_file(shape.vocab, ec)) return shape.vocab;
    const fs::path folder = shape.vocab_folder.empty() ? vocabulary_folder() : fs::path(shape.vocab_folder);
    const fs::path file = folder / fmt::format("ggml-vocab-{}.gguf", shape.vocab);
    if (fs::is_regular_file(file, ec)) return file.string();
    return Error{ErrorKind::not_found,
                 fmt::format("no tokeniser {}: neither a GGUF file nor {}; name a GGUF file with --vocab-from, or use "
                             "--vocab tiny (ATTNSCOPE_VOCAB_DIR names the folder of ggml-vocab-*.gguf, the models/ of "
                             "llama.cpp's sources)",
                             shape.vocab, file.string())};
}

// An array of the wanted type, or nothing.
int64_t array_key(const gguf_context* file, const char* name, gguf_type type) {
    const int64_t id = gguf_find_key(file, name);
    if (id < 0 || gguf_get_kv_type(file, id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(file, id) != type) return -1;
    return id;
}

Result<Tokens> read_tokens(const gguf_context* file, const std::string& path) {
    const int64_t text = array_key(file, "tokenizer.ggml.tokens", GGUF_TYPE_STRING);
    if (text < 0) return Error{ErrorKind::damaged, fmt::format("{} holds no tokeniser (tokenizer.ggml.tokens)", path)};
    Tokens tokens;
    const size_t n = gguf_get_arr_n(file, text);
    for (size_t i = 0; i < n; ++i) tokens.text.emplace_back(gguf_get_arr_str(file, text, i));
    tokens.type.assign(n, normal);
    if (const int64_t id = array_key(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32);
        id >= 0 && gguf_get_arr_n(file, id) == n) {
        std::memcpy(tokens.type.data(), gguf_get_arr_data(file, id), n * sizeof(int32_t));
    }
    if (const int64_t id = array_key(file, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32);
        id >= 0 && gguf_get_arr_n(file, id) == n) {
        tokens.score.resize(n);
        std::memcpy(tokens.score.data(), gguf_get_arr_data(file, id), n * sizeof(float));
    }
    return tokens;
}

// gguf_set_kv() copies all keys of a file; the model's own are set afterwards, over them, and those of the
// file's architecture do no harm: llama.cpp does not ask for them.
void copy_tokenizer_keys(gguf_context* file, gguf_context* keys) {
    for (int64_t id = gguf_get_n_kv(file) - 1; id >= 0; --id) {
        const std::string name = gguf_get_key(file, id);
        if (!name.starts_with("tokenizer.")) gguf_remove_key(file, name.c_str());
    }
    gguf_set_kv(keys, file);
}

} // namespace

Result<int32_t> add_vocabulary(const ModelShape& shape, gguf_context* keys) {
    if (shape.vocab == "tiny") return tiny_vocabulary(shape.n_vocab, keys);
    const auto path = vocabulary_file(shape);
    if (!path) return path.error();
    // Ours first: it refuses what is no GGUF in a sentence, and llama.cpp's reader writes to standard error.
    auto source = gguf::open_gguf_source(*path);
    if (!source) return source.error();
    if (const auto whole = gguf::read_gguf(**source, *path); !whole) return whole.error();
    const GgufPtr file(gguf_init_from_file(path->c_str(), {.no_alloc = true, .ctx = nullptr}), gguf_free);
    if (!file) return Error{ErrorKind::not_ours, fmt::format("{} is not a GGUF file that llama.cpp can read", *path)};
    auto tokens = read_tokens(file.get(), *path);
    if (!tokens) return tokens.error();
    if (shape.n_vocab > 0 && shape.n_vocab < int64_t(tokens->text.size())) {
        return Error{ErrorKind::invalid_argument, fmt::format("--vocab-size is {}, but the tokeniser {} has {} tokens",
                                                              shape.n_vocab, shape.vocab, tokens->text.size())};
    }
    pad(*tokens, shape.n_vocab);
    copy_tokenizer_keys(file.get(), keys);
    write_tokens(*tokens, keys);
    if (gguf_find_key(keys, "tokenizer.chat_template") < 0) {
        gguf_set_val_str(keys, "tokenizer.chat_template", chat_template);
    }
    return int32_t(tokens->text.size());
}

} // namespace attnscope::models
