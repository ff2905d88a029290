// An array of a file that was not read yet: what it is called, how it lies, and where its bytes come from.
#pragma once

#include "base/input_file.h"

#include <attnscope/error.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::formats {

enum class ElementType { f16, bf16, f32, f64, i8, u8, i16, u16, i32, u32, i64, u64, boolean };
size_t element_bytes(ElementType type);
const char* element_name(ElementType type); // "float16", ...

// `n` elements of `type`, little-endian, into float32. Doubles beyond the range become infinities.
void elements_to_float(ElementType type, const uint8_t* from, size_t n, float* to);
// The bytes of each element in the other order.
void swap_elements(ElementType type, uint8_t* bytes, size_t n);

struct ArrayLayout {
    std::vector<int64_t> shape; // as stored
    ElementType type = ElementType::f32;
    bool fortran = false; // the first axis is the fastest
    bool big_endian = false;
};

struct StoredArray {
    StoredArray() = default;
    StoredArray(std::string called, ArrayLayout lies, std::unique_ptr<base::ByteStream> from)
        : name(std::move(called)), layout(std::move(lies)), bytes(std::move(from)) {}

    std::string name;
    ArrayLayout layout;
    std::unique_ptr<base::ByteStream> bytes; // the elements and nothing else

    // Extents in the order the numbers lie, slowest first.
    std::vector<int64_t> storage_shape() const;
    // `n` numbers from the `first` one on, in storage order, as float32.
    Result<void> read(int64_t first, size_t n, float* out);

private:
    std::vector<uint8_t> staging_;
};

// A stretch of a file.
std::unique_ptr<base::ByteStream> file_stretch(std::shared_ptr<base::InputFile> file, int64_t begin, int64_t end);

// "attn_9" before "attn_10".
bool natural_less(const std::string& a, const std::string& b);

} // namespace attnscope::formats
