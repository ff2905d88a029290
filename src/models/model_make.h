// Makes GGUF models of any shape with random weights: for tests, for measuring, for trying an architecture.
// They load in llama.cpp, decode, and attend to something; what they write is noise.
#pragma once

#include <attnscope/error.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace attnscope::models {

enum class WeightType { f32, f16, q8_0, q4_0 };

struct ModelShape {
    std::string arch = "llama"; // one of made_architectures()
    int32_t n_layer = 4;
    int32_t n_head = 4;
    int32_t n_head_kv = 2; // divides n_head; 0: as many as n_head
    int32_t head_dim = 32; // even; a multiple of 32 for quantised caches
    int32_t n_embd = 0;    // 0: n_head * head_dim (some architectures allow nothing else)
    int32_t n_ff = 0;      // 0: n_embd, to stay small
    int32_t n_ctx_train = 4096;
    int32_t n_vocab = 0;        // 0: as many tokens as the vocabulary has; more: padded with unused ones
    int32_t window = 0;         // width of sliding windows in positions; 0: 16; only where the architecture has them
    int32_t window_pattern = 0; // every n-th layer sees everything; 0: 2 (the architecture's own in presets)
    int32_t n_expert = 4;       // mixture-of-experts architectures only, of which 2 are used for a token
    float softcap = 0;          // of attention scores; 0: 6, low enough to matter; only where the architecture has it
    WeightType type = WeightType::f16; // of matrices; rows that are no multiple of 32 become f16 instead of quantised
    bool tied = false;                 // the output matrix is the embedding matrix (gemma always)
    // "tiny": 260 tokens, one a byte; else a tokeniser that comes with llama.cpp (qwen2, gpt-2, llama-spm,
    // ...), or a path to a GGUF file to copy the tokeniser from.
    std::string vocab = "tiny";
    std::string vocab_folder; // where llama.cpp's ggml-vocab-*.gguf lie; empty: where they lay at build time
    uint64_t seed = 1;        // the same shape and seed give the same file
    std::string name;         // general.name; empty: made from the shape
};

std::vector<std::string_view> made_architectures();
// Of them those that continue a text, and those whose encoder reads it.
std::vector<std::string_view> made_text_architectures();
std::vector<std::string_view> made_encoders();

// "qwen2.5-vl-7b" (the text model of Qwen2.5-VL-7B: 28 layers, Q8_0, 8.1 GB) or "qwen2.5-0.5b" (24 layers,
// Q8_0).
Result<ModelShape> preset_shape(std::string_view name);
std::vector<std::string_view> shape_presets();

// Bytes written so far and in all; called from one thread at a time.
using MakeProgress = std::function<void(uint64_t done, uint64_t total)>;

// Writes `path` (replacing it in one step when complete). Memory is constant: tensors are streamed.
// Errors: invalid_argument (a shape that cannot be, with the option's name), not_found (tokeniser), io.
Result<void> make_model(const ModelShape& shape, const std::string& path, const MakeProgress& progress = {});

} // namespace attnscope::models
