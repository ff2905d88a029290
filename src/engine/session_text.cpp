// Between text and tokens, and what the model's file says of the model. All of it reads the model only, so that any
// thread may ask while another decodes.
#include "engine/chat_template.h"
#include "engine/deep_stack.h"
#include "engine/session_impl.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>

namespace attnscope::engine {

Result<std::vector<int32_t>> SessionImpl::tokenize(const std::string& text, bool add_special,
                                                   bool parse_special) const {
    if (llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE) {
        return Error{ErrorKind::unsupported,
                     "the model comes without a tokeniser; give token ids (--input-ids) instead of a text"};
    }
    std::vector<int32_t> tokens(text.size() + 8);
    const auto fill = [&] {
        return llama_tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                              static_cast<int32_t>(tokens.size()), add_special, parse_special);
    };
    int32_t n = 0;
    std::string thrown;
    // The texts of some vocabularies are cut with std::regex, which recurses for every character of a match: a long run of
    // letters overflows an ordinary stack.
    const Result<void> ran = run_on_deep_stack(text.size(), [&] {
        try {
            n = fill();
            if (n < 0 && n != INT32_MIN) {
                tokens.resize(size_t(-n));
                n = fill();
            }
        } catch (const std::exception& e) {
            // A SentencePiece vocabulary without byte tokens throws at characters that it does not have.
            thrown = e.what();
        }
    });
    if (!ran) {
        return Error{ErrorKind::io,
                     fmt::format("a text of {} bytes is too long to tokenise: {}", text.size(), ran.error().message)};
    }
    if (!thrown.empty()) {
        return Error{ErrorKind::engine, "llama.cpp cannot tokenise this text with this vocabulary: " + thrown};
    }
    if (n < 0) return Error{ErrorKind::engine, "the text is too long to tokenise"};
    tokens.resize(size_t(n));
    return tokens;
}

std::string SessionImpl::piece(int32_t token) const {
    if (token < 0 || token >= n_vocab_ || llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE) return {};
    std::string text(64, '\0');
    int32_t n = llama_token_to_piece(vocab_, token, text.data(), static_cast<int32_t>(text.size()), 0, true);
    if (n < 0) {
        text.resize(size_t(-n));
        n = llama_token_to_piece(vocab_, token, text.data(), static_cast<int32_t>(text.size()), 0, true);
    }
    text.resize(size_t(std::max(n, 0)));
    return text;
}

Result<std::string> SessionImpl::chat_prompt(std::span<const ChatMessage> messages) const {
    nlohmann::json list = nlohmann::json::array();
    for (const ChatMessage& m : messages) list.push_back({{"role", m.role}, {"content", m.content}});
    return chat_prompt_json(
        nlohmann::json{{"messages", std::move(list)}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
        {});
}

Result<std::string> SessionImpl::chat_prompt_json(const std::string& request, const GivenUp& given_up) const {
    return render_chat({model_.get(), {}, {}, {}}, request, given_up);
}

ModelInfo SessionImpl::model_info() const {
    const llama_model* model = model_.get();
    ModelInfo info;
    info.name = identity_.name.empty() ? std::filesystem::path(identity_.path).stem().string() : identity_.name;
    info.n_layer = llama_model_n_layer(model);
    info.n_head = llama_model_n_head(model);
    info.n_head_kv = llama_model_n_head_kv(model);
    info.n_embd = llama_model_n_embd(model);
    info.n_ctx_train = llama_model_n_ctx_train(model);
    info.bos = llama_vocab_bos(vocab_);
    info.eos = llama_vocab_eos(vocab_);
    info.eot = llama_vocab_eot(vocab_);
    info.rope_freq_scale = llama_model_rope_freq_scale_train(model);
    char value[64] = {};
    const std::string key = identity_.architecture + ".rope.freq_base";
    // llama.cpp's own default where the file says nothing.
    info.rope_freq_base =
        llama_model_meta_val_str(model, key.c_str(), value, sizeof value) > 0 ? std::strtof(value, nullptr) : 10000.0f;
    if (const char* chat_template = llama_model_chat_template(model, nullptr)) info.chat_template = chat_template;
    return info;
}

} // namespace attnscope::engine
