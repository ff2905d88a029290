// Which numbers a program's ggml gives its operations: told by what they do in a graph of llama.cpp, where nobody can be asked.
#pragma once

#include "capture/graph/ggml_abi.h"

#include <array>
#include <span>
#include <string>

namespace attnscope::attach {

using Operations = std::array<capture::Op, capture::GgmlAbi::n_ops>;

// Adds what these tensors (capture::ggml().tensor says how they lie) show of it. Each number is of one operation, and each operation has
// one number; a sentence: what contradicts that, or what is missing to see the graph's attention.
std::string find_operations(std::span<ggml_tensor* const> tensors, Operations& known);

// Writes new keys to a layer's cache.
bool stores_keys_of_layer(const ggml_tensor* tensor);

// Of weights. LFM2 has them under the name that others' norm before all layers has.
bool is_name_of_last_norm(const char* name);
// MUL(norm, weight of the last norm), elementwise and in order: what stands behind all layers of a model, and what can be computed
// here as ggml does, to the bit.
bool is_last_norm(const ggml_tensor* tensor);

} // namespace attnscope::attach
