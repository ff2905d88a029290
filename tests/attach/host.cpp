// A program that knows nothing of attnscope: it reads a prompt of token ids and generates greedily, as many programs do. A model with
// an encoder reads the prompt with that, and its decoder goes on from the token that it names.
//
//   attach_host MODEL N_PREDICT FLASH(0|1) ID [ID ...]
//
// Prints the ids of all tokens that were decoded, the prompt's among them. ATTACH_HOST_PAUSE: sleeps so many milliseconds before
// each token. ATTACH_HOST_LOAD_ALL: has ggml load its back ends, as llama.cpp's own programs do. ATTACH_HOST_UBATCH: so many tokens a
// graph. ATTACH_HOST_LOGITS: a file that all logits are written to. ATTACH_HOST_CACHE: the type of cached keys, a number of ggml's.
// ATTACH_HOST_FIT: first makes a context without memory, as llama.cpp's own programs do to see what would fit.
#include <ggml-backend.h>
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
    if (argc < 5) return 2;
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    if (std::getenv("ATTACH_HOST_LOAD_ALL")) ggml_backend_load_all();
    if (std::getenv("ATTACH_HOST_FIT")) {
        llama_model_params without = llama_model_default_params();
        without.no_alloc = true;
        without.load_mode = LLAMA_LOAD_MODE_NONE;
        llama_model* fits = llama_model_load_from_file(argv[1], without);
        llama_context* none = fits ? llama_init_from_model(fits, llama_context_default_params()) : nullptr;
        if (!none) return 2;
        llama_free(none);
        llama_model_free(fits);
    }
    llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return 2;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    params.n_threads = params.n_threads_batch = 2;
    if (const char* n = std::getenv("ATTACH_HOST_UBATCH")) params.n_ubatch = static_cast<uint32_t>(std::atoi(n));
    params.flash_attn_type = std::atoi(argv[3]) ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    if (const char* type = std::getenv("ATTACH_HOST_CACHE")) params.type_k = static_cast<ggml_type>(std::atoi(type));
    llama_context* context = llama_init_from_model(model, params);
    if (!context) return 2;
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::vector<llama_token> batch;
    for (int i = 4; i < argc; ++i) batch.push_back(std::atoi(argv[i]));
    if (llama_model_has_encoder(model)) {
        if (llama_encode(context, llama_batch_get_one(batch.data(), static_cast<int>(batch.size()))) != 0) return 1;
        batch.assign(1, llama_model_decoder_start_token(model));
    }
    const char* pause = std::getenv("ATTACH_HOST_PAUSE");
    const char* path = std::getenv("ATTACH_HOST_LOGITS");
    std::FILE* all_logits = path ? std::fopen(path, "wb") : nullptr;
    for (int left = std::atoi(argv[2]);; --left) {
        for (const llama_token t : batch) std::printf("%d ", t);
        std::fflush(stdout);
        if (llama_decode(context, llama_batch_get_one(batch.data(), static_cast<int>(batch.size()))) != 0) return 1;
        const float* logits = llama_get_logits_ith(context, -1);
        if (all_logits) std::fwrite(logits, sizeof *logits, static_cast<size_t>(n_vocab), all_logits);
        if (left <= 0) break;
        batch.assign(1, static_cast<llama_token>(std::max_element(logits, logits + n_vocab) - logits));
        if (pause) std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(pause)));
    }
    std::printf("\n");
    if (all_logits) std::fclose(all_logits);
    llama_free(context);
    llama_model_free(model);
    return 0;
}
