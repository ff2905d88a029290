// Reads memory that may not be there: what somebody points to of whom it is not known yet how his structures lie.
#pragma once

#include "attach/inside/graph_walk.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace attnscope::attach {

// Asks the kernel, which says no where a load would end the program.
class CarefulBytes : public TensorBytes {
public:
    CarefulBytes();
    ~CarefulBytes() override;
    CarefulBytes(const CarefulBytes&) = delete;
    CarefulBytes& operator=(const CarefulBytes&) = delete;

    bool read(const void* from, void* to, size_t n) const; // what is not aligned is no structure
    bool read_any(const void* from, void* to, size_t n) const;
    // A copy of the tensor, as it was when it was asked for first.
    const uint8_t* of(const ggml_tensor* tensor) override;

private:
    static constexpr size_t tensor_bytes = 336;
    int memory_;
    std::unordered_map<const void*, std::array<uint8_t, tensor_bytes>> read_;
};

} // namespace attnscope::attach
