// What a made model will consist of: keys and tensors, decided before a byte is written. Internal to
// model_make.
#pragma once

#include "models/model_make.h"

#include <ggml.h>
#include <gguf.h>

#include <memory>
#include <string>
#include <vector>

namespace attnscope::models {

using GgufPtr = std::unique_ptr<gguf_context, decltype(&gguf_free)>;

struct PlannedTensor {
    std::string name;
    std::vector<int64_t> ne; // as in ggml: fastest first
    ggml_type type = GGML_TYPE_F32;
    float mean = 0;
    float deviation = 0;      // standard deviation; the distribution is uniform
    bool random_sign = false; // each element's sign is drawn as well
};

struct ModelPlan {
    GgufPtr keys{nullptr, gguf_free};
    std::vector<PlannedTensor> tensors;
};

// A shape with every default filled in and checked against what its architecture can be.
Result<ModelShape> complete_shape(const ModelShape& shape);

// Keys and tensors of the architecture; shape.n_vocab must be final. Tokeniser keys are added by
// add_vocabulary().
ModelPlan plan_model(const ModelShape& shape);

// Copies or makes the tokeniser; returns the number of tokens, at least shape.n_vocab.
Result<int32_t> add_vocabulary(const ModelShape& shape, gguf_context* keys);

} // namespace attnscope::models
