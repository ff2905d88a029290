// The rules of check_gguf(), grouped by what they look at. Each returns the first thing that is wrong.
#pragma once

#include "gguf/gguf_architectures.h"
#include "gguf/gguf_check.h"
#include "gguf/gguf_file.h"

namespace attnscope::gguf {

struct GgufCheck {
    GgufSource& source;
    const GgufFile& file;
    const Architecture* arch = nullptr;
    int32_t n_layer_all = 0; // with MTP layers
    GgufSummary summary;

    Error damaged(const std::string& what) const;
    Error unsupported(const std::string& what) const;

    // Keys of the architecture: "block_count" means "<arch>.block_count".
    std::string key_name(const char* name) const;
    const GgufKey* find(const char* name) const { return file.find(key_name(name)); }
    // The key's value, `otherwise` when there is no such key, damaged when it is of another type or above
    // `high`.
    Result<uint32_t> u32(const char* name, uint32_t otherwise, uint32_t high) const;
    // Likewise, but it must be there and at least 1.
    Result<uint32_t> required_u32(const char* name, uint32_t high) const;
    // One value a layer, from a number or an array; empty when there is no such key.
    Result<std::vector<uint32_t>> per_layer(const char* name, uint32_t high) const;
};

// Sizes, heads, experts, RoPE, recurrent parts. Fills the summary's numbers.
Result<void> check_hyperparameters(GgufCheck& check);
// The tokeniser. Fills n_vocab.
Result<void> check_vocabulary(GgufCheck& check);
// Layers that are there, shapes and types. `tensors` are those of all parts.
Result<void> check_tensors(const GgufCheck& check, std::span<const GgufTensor> tensors);

} // namespace attnscope::gguf
