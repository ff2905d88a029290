// Everything that some operations are made of: where a graph's list of nodes is not to be had.
#pragma once

#include "capture/graph/ggml_abi.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::attach {

// No graph of a program comes near; a walk over what is none ends.
constexpr size_t most_tensors = size_t(1) << 17;

// The bytes of a tensor.
class TensorBytes {
public:
    virtual ~TensorBytes() = default;
    virtual const uint8_t* of(const ggml_tensor* tensor) = 0; // null: nobody's memory
};

// Tensors that are known to be there.
class PlainBytes : public TensorBytes {
public:
    const uint8_t* of(const ggml_tensor* tensor) override { return reinterpret_cast<const uint8_t*>(tensor); }
};

// `roots` and what they are made of, each once, behind all that it is made of itself, and the roots in their order otherwise. Empty:
// what was met is no graph.
std::vector<ggml_tensor*> walk(std::span<ggml_tensor* const> roots, const capture::GgmlTensorLayout& layout,
                               TensorBytes& bytes);

} // namespace attnscope::attach
