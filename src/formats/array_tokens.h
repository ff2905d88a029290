// One stored array of [tokens?, layers, heads, context], cut into tokens: element types become float32,
// Fortran order becomes C order, and only one token (or, in Fortran order, a batch of bounded size) is in
// memory.
#pragma once

#include "base/input_file.h"

#include <attnscope/error.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace attnscope {

enum class ElementType { f16, bf16, f32, f64 };
size_t element_bytes(ElementType type);
const char* element_name(ElementType type); // "float16", ...

// `n` elements of `type`, little-endian, into float32. Doubles beyond the range become infinities.
void elements_to_float(ElementType type, const uint8_t* from, size_t n, float* to);

struct ArrayLayout {
    std::vector<int64_t> shape; // as stored: 1, 3 or 4 extents
    ElementType type = ElementType::f32;
    bool fortran = false;
};

class ArrayTokens {
public:
    // `bytes` yields the array's elements and nothing else; `available` is how many bytes it can yield.
    // Errors: unsupported (the shape is no attention), damaged (fewer bytes than the shape needs: what is
    // there is still readable, so this comes from next() in its place).
    static Result<std::unique_ptr<ArrayTokens>> make(std::unique_ptr<base::ByteStream> bytes,
                                                     const ArrayLayout& layout, const std::string& name);

    int64_t n_tokens() const { return tokens_; }
    int32_t n_layer() const { return static_cast<int32_t>(layers_); }
    int32_t n_head() const { return static_cast<int32_t>(heads_); }
    int64_t n_context() const { return context_; }
    bool stacked() const { return stacked_; }
    bool aggregate() const { return layout_.shape.size() == 1; } // one row: a mean over layers and heads
    // Reads the next token into `values`; call n_tokens() times. After an error nothing more can be read.
    Result<void> next(base::TokenBuffer& values);

private:
    ArrayTokens() = default;
    Result<void> next_in_order(float* out);
    Result<void> fill_batch();

    std::unique_ptr<base::ByteStream> bytes_;
    ArrayLayout layout_;
    std::string name_;
    int64_t tokens_ = 1, layers_ = 1, heads_ = 1, context_ = 1;
    bool stacked_ = false;
    int64_t at_ = 0;
    std::vector<uint8_t> staging_;
    std::vector<float> batch_; // Fortran order: tokens [batch_begin_, batch_end_)
    int64_t batch_begin_ = 0, batch_end_ = 0;
};

// A stretch of a file.
std::unique_ptr<base::ByteStream> file_stretch(std::shared_ptr<base::InputFile> file, int64_t begin, int64_t end);

// A capture of one array after another, each already opened.
class CaptureReader;
struct CaptureInfo;
struct NamedArray {
    std::string name;
    std::unique_ptr<ArrayTokens> tokens;
};
std::unique_ptr<CaptureReader> read_arrays(CaptureInfo info, std::vector<NamedArray> arrays);

// "attn_9" before "attn_10".
bool natural_less(const std::string& a, const std::string& b);

} // namespace attnscope
