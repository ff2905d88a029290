// The architectures that llama.cpp v0.5.0 can build, and what is known about each without loading it.
#pragma once

#include <span>
#include <string_view>

namespace attnscope::gguf {

enum class ArchKind {
    text,            // generates text, one token after the other
    recurrent,       // generates text without any attention
    diffusion,       // generates text by filling in masked tokens
    embedding,       // turns text into one vector
    encoder_decoder, // needs an encoder's pass first
    projector,       // turns images or sound into embeddings for another model
    audio,           // part of a speech pipeline
    draft,           // guesses ahead for another model
};

struct Architecture {
    std::string_view name;
    ArchKind kind;
    bool equal_heads;                 // llama.cpp aborts unless heads of K and V have one size
    bool rope_whole_head;             // llama.cpp aborts unless RoPE turns as many elements as a head has
    bool heads_fill_embd;             // llama.cpp aborts unless all query heads together have as many elements as an
                                      // embedding
    bool windows;                     // has layers with a sliding window, of which llama.cpp wants at least one
    bool latent;                      // has multi-head latent attention: reads attention.kv_lora_rank
    std::string_view recurrent_sizes; // the keys of its recurrent parts, none of which may be 0
};

std::span<const Architecture> architectures();
const Architecture* find_architecture(std::string_view name); // null when llama.cpp does not know it

// Why a model of this kind does not continue a text, as the end of a sentence; empty where it does.
std::string_view no_text_reason(ArchKind kind);

} // namespace attnscope::gguf
