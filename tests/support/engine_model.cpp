#include "support/engine_model.h"

#include <ggml-backend.h>

namespace attnscope::test {

void quiet_engine() {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
}

EngineModel load_engine_model(const std::string& path) {
    llama_backend_init();
    return {llama_model_load_from_file(path.c_str(), llama_model_default_params()), llama_model_free};
}

std::optional<std::vector<float>> decode_logits(llama_model* model, const std::vector<int32_t>& tokens, bool flash) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_threads = 1;
    params.n_threads_batch = 1;
    params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    const EngineContext context(llama_init_from_model(model, params), llama_free);
    if (!context) return std::nullopt;
    std::vector<llama_token> batch(tokens.begin(), tokens.end());
    if (llama_model_has_encoder(model)) {
        if (llama_encode(context.get(), llama_batch_get_one(batch.data(), int32_t(batch.size()))) != 0)
            return std::nullopt;
        if (!llama_model_has_decoder(model)) return std::nullopt;
        const int32_t start = llama_model_decoder_start_token(model);
        const bool fits = start >= 0 && start < llama_vocab_n_tokens(llama_model_get_vocab(model));
        batch = {fits ? start : 0};
    }
    if (llama_decode(context.get(), llama_batch_get_one(batch.data(), int32_t(batch.size()))) != 0) return std::nullopt;
    const float* logits = llama_get_logits_ith(context.get(), -1);
    if (logits == nullptr) return std::nullopt;
    return std::vector<float>(logits, logits + llama_vocab_n_tokens(llama_model_get_vocab(model)));
}

} // namespace attnscope::test
