// Is this GGUF file one that llama.cpp can load? Asked before llama.cpp sees it, because llama.cpp answers
// some damaged files by aborting the process: layer counts out of range, two tokens of one text, expert
// counts that contradict each other, heads that do not divide, unknown RoPE scalings, tensors of types that
// no kernel takes.
#pragma once

#include <attnscope/error.h>

#include <cstdint>
#include <span>
#include <string>

namespace attnscope::gguf {

struct GgufSummary {
    std::string architecture; // general.architecture
    std::string name;         // general.name; may be empty
    int32_t n_layer = 0;      // without layers that only predict further tokens (MTP)
    int32_t n_head = 0;       // query heads; where layers differ, the most that one has
    int32_t n_head_kv = 0;    // KV heads, likewise
    int32_t n_embd = 0;
    int32_t n_vocab = 0;
    int32_t n_ctx_train = 0;
    uint64_t file_bytes = 0; // of all parts
    int32_t n_parts = 1;     // files the model is split over
    int64_t n_tensors = 0;
    uint32_t version = 0;        // of the format
    bool embedding_only = false; // made to turn text into vectors
    bool has_attention = true;   // false: purely recurrent (Mamba, RWKV): nothing to capture
    std::string no_text_reason;  // why it does not generate text, as the end of a sentence; empty: it does
    // ... but attends over a text that it is given, all at once: its tokens see later ones, too
    bool reads_whole_texts = false;
    // ... or as a model does that generates: embeddings of a causal model
    bool reads_texts = false;
    bool encoder_decoder = false; // ... and then writes with a decoder that looks at what the encoder made of it
};

// Reads the directory of the file (and of its further parts, where it is split): not the weights.
// Errors are one sentence with the file and the place: not_found, io, not_ours (no GGUF, or no model),
// damaged, too_new, unsupported (an architecture or a tokeniser that llama.cpp v0.5.0 does not know). A model
// that does not generate text passes; no_text_reason says so.
Result<GgufSummary> check_gguf(const std::string& path);

// The same of a file in memory; `name` is for messages.
Result<GgufSummary> check_gguf_bytes(std::span<const uint8_t> bytes, const std::string& name);

} // namespace attnscope::gguf
