// Tiny models of every architecture that llama.cpp can make of itself, saved by llama.cpp: arch_models FOLDER [NAME...]
//
// The engine's own tests/test-llama-archs.cpp says what each of them needs; it is compiled into this program as it is, with two
// headers of ours for the library that it otherwise comes with. What it passes over is added here where its keys are few.
#define main engine_main
#include ATTNSCOPE_ARCH_GENERATOR
#undef main

#include "llama-model.h"

namespace {

// Layers 3 and 4 borrow the keys of layers 1 (sliding window) and 2.
void complete_gemma4(gguf_context* keys) {
    const bool windows[] = {true, true, false, true, false};
    gguf_remove_key(keys, "gemma4.attention.sliding_window_pattern");
    gguf_set_arr_data(keys, "gemma4.attention.sliding_window_pattern", GGUF_TYPE_BOOL, windows, 5);
    gguf_set_val_u32(keys, "gemma4.attention.shared_kv_layers", 2);
}

// Embedding models, and T5: the generator has their sizes, but not that they look both ways.
bool is_encoder(llm_arch arch) {
    switch (arch) {
    case LLM_ARCH_BERT:
    case LLM_ARCH_MODERN_BERT:
    case LLM_ARCH_NOMIC_BERT:
    case LLM_ARCH_NOMIC_BERT_MOE:
    case LLM_ARCH_NEO_BERT:
    case LLM_ARCH_JINA_BERT_V2:
    case LLM_ARCH_JINA_BERT_V3:
    case LLM_ARCH_EUROBERT:
    case LLM_ARCH_GEMMA_EMBEDDING:
    case LLM_ARCH_LLAMA_EMBED:
    case LLM_ARCH_T5:
    case LLM_ARCH_T5ENCODER: return true;
    default: return false;
    }
}

void complete_encoder(llm_arch arch, gguf_context* keys) {
    const std::string prefix = std::string(llm_arch_name(arch)) + ".";
    gguf_set_val_u32(keys, "tokenizer.ggml.token_type_count", 2);
    if (arch != LLM_ARCH_T5) gguf_set_val_bool(keys, (prefix + "attention.causal").c_str(), false);
    if (arch == LLM_ARCH_NOMIC_BERT_MOE) gguf_set_val_u32(keys, (prefix + "moe_every_n_layers").c_str(), 2);
    if (arch != LLM_ARCH_JINA_BERT_V2) gguf_set_val_f32(keys, (prefix + "attention.max_alibi_bias").c_str(), 0);
}

bool is_ours(llm_arch arch) {
    return arch == LLM_ARCH_GEMMA4 || arch == LLM_ARCH_GEMMA3N || is_encoder(arch);
}

bool can_be_made(llm_arch arch) {
    if (is_ours(arch)) return true;
    const bool passed_over = arch == LLM_ARCH_UNKNOWN || arch == LLM_ARCH_GEMMA4_ASSISTANT || arch == LLM_ARCH_EAGLE3 ||
                             arch == LLM_ARCH_DFLASH;
    return !passed_over && arch_supported(arch) && llama_model_saver_supports_arch(arch);
}

bool make(llm_arch arch, bool moe, const std::string& path) {
    gguf_context_ptr keys = get_gguf_ctx(arch, moe);
    if (arch == LLM_ARCH_GEMMA4) complete_gemma4(keys.get());
    if (is_encoder(arch)) complete_encoder(arch, keys.get());
    // more than a ring's cells
    gguf_set_val_u32(keys.get(), (std::string(llm_arch_name(arch)) + ".context_length").c_str(), 512);
    tensor_data_params weights = {1, 0.1f};
    llama_model_params params = llama_model_default_params();
    params.progress_callback = silent_model_load_progress;
    const llama_model_ptr model(llama_model_init_from_user(keys.get(), set_tensor_data, &weights, params));
    if (!model) return false;
    if (!is_ours(arch)) {
        llama_model_save_to_file(model.get(), path.c_str());
        return true;
    }
    // llama.cpp forgets keys of these when it saves them: they get all that they were made of.
    gguf_context_ptr whole(gguf_init_empty());
    gguf_set_kv(whole.get(), keys.get());
    for (const auto& [name, tensor] : model->tensors_by_name) {
        if (gguf_find_tensor(whole.get(), name.c_str()) < 0) gguf_add_tensor(whole.get(), tensor);
    }
    return gguf_write_to_file(whole.get(), path.c_str(), false);
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s FOLDER [NAME...]\n", argv[0]);
        return 2;
    }
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        },
        nullptr);
    int failed = 0;
    for (const llm_arch& arch : llm_arch_all()) {
        const std::string name = llm_arch_name(arch);
        bool named = argc == 2;
        for (int i = 2; i < argc; ++i) named = named || name == argv[i];
        if (!named || !can_be_made(arch)) continue;
        const bool moe = moe_mandatory(arch) || arch == LLM_ARCH_NOMIC_BERT_MOE;
        try {
            if (make(arch, moe, std::string(argv[1]) + "/" + name + ".gguf")) continue;
        } catch (const std::exception& e) {
            std::fprintf(stderr, "%s: %s\n", name.c_str(), e.what());
        }
        ++failed;
    }
    return failed == 0 ? 0 : 1;
}
