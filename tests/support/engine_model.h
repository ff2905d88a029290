// A GGUF file loaded by llama.cpp itself, and tokens decoded with it: no code of ours in between.
#pragma once

#include <llama.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::test {

using EngineModel = std::unique_ptr<llama_model, decltype(&llama_model_free)>;
using EngineContext = std::unique_ptr<llama_context, decltype(&llama_free)>;

// Silences llama.cpp for the whole process.
void quiet_engine();

// Null when llama.cpp refuses the file.
EngineModel load_engine_model(const std::string& path);

// Decodes `tokens` in one batch and returns the logits of the last; nothing when llama.cpp fails.
std::optional<std::vector<float>> decode_logits(llama_model* model, const std::vector<int32_t>& tokens, bool flash);

} // namespace attnscope::test
