#include "formats/array_tokens.h"

#include "base/bounded_json.h"
#include "formats/importers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

namespace attnscope {

static_assert(std::endian::native == std::endian::little, "files are read in the machine's own byte order");

namespace {

constexpr size_t staging_bytes = size_t(1) << 18;     // stays in the second-level cache
constexpr int64_t batch_elements = int64_t(16) << 20; // 64 MiB of float32

// IEEE 754 binary16 without branches on the exponent, so that compilers vectorise the loop: shift the bits
// into place, scale by 2^112 (which also normalises subnormals), and put all-ones exponents back.
float half_to_float(uint16_t half) {
    const uint32_t bits = uint32_t(half & 0x7FFFu) << 13;
    float scaled = std::bit_cast<float>(bits) * 0x1p112f;
    uint32_t result = std::bit_cast<uint32_t>(scaled);
    if ((half & 0x7C00u) == 0x7C00u) result |= 0x7F800000u;
    return std::bit_cast<float>(result | uint32_t(half & 0x8000u) << 16);
}

class FileStretch final : public base::ByteStream {
public:
    FileStretch(std::shared_ptr<base::InputFile> file, int64_t begin, int64_t end)
        : file_(std::move(file)), begin_(begin), end_(end), at_(begin) {}
    Result<void> rewind() override {
        at_ = begin_;
        return {};
    }
    Result<void> read(void* out, size_t n) override {
        if (static_cast<int64_t>(n) > end_ - at_) {
            return Error{ErrorKind::damaged, file_->path() + " ends before its array does"};
        }
        auto done = file_->read_at(at_, out, n);
        if (done) at_ += static_cast<int64_t>(n);
        return done;
    }

private:
    std::shared_ptr<base::InputFile> file_;
    int64_t begin_, end_, at_;
};

} // namespace

std::unique_ptr<base::ByteStream> file_stretch(std::shared_ptr<base::InputFile> file, int64_t begin, int64_t end) {
    return std::make_unique<FileStretch>(std::move(file), begin, end);
}

size_t element_bytes(ElementType type) {
    return type == ElementType::f64 ? 8 : type == ElementType::f32 ? 4 : 2;
}

const char* element_name(ElementType type) {
    switch (type) {
    case ElementType::f16:
        return "float16";
    case ElementType::bf16:
        return "bfloat16";
    case ElementType::f32:
        return "float32";
    case ElementType::f64:
        return "float64";
    }
    return "?";
}

void elements_to_float(ElementType type, const uint8_t* from, size_t n, float* to) {
    switch (type) {
    case ElementType::f32:
        std::memcpy(to, from, n * sizeof(float));
        return;
    case ElementType::f16:
        for (size_t i = 0; i < n; ++i) {
            uint16_t half = 0;
            std::memcpy(&half, from + 2 * i, 2);
            to[i] = half_to_float(half);
        }
        return;
    case ElementType::bf16:
        for (size_t i = 0; i < n; ++i) {
            uint16_t top = 0;
            std::memcpy(&top, from + 2 * i, 2);
            to[i] = std::bit_cast<float>(uint32_t(top) << 16);
        }
        return;
    case ElementType::f64:
        for (size_t i = 0; i < n; ++i) {
            double value = 0;
            std::memcpy(&value, from + 8 * i, 8);
            const double most = static_cast<double>(std::numeric_limits<float>::max());
            to[i] = value > most    ? std::numeric_limits<float>::infinity()
                    : value < -most ? -std::numeric_limits<float>::infinity()
                                    : static_cast<float>(value);
        }
        return;
    }
}

Result<std::unique_ptr<ArrayTokens>> ArrayTokens::make(std::unique_ptr<base::ByteStream> bytes,
                                                       const ArrayLayout& layout, const std::string& name) {
    std::unique_ptr<ArrayTokens> array(new ArrayTokens);
    array->stacked_ = layout.shape.size() == 4;
    const auto shape = array->stacked_ ? std::vector<int64_t>(layout.shape.begin() + 1, layout.shape.end())
                                       : token_shape(layout.shape);
    if (shape.empty()) {
        return Error{ErrorKind::unsupported,
                     name + " has the shape " + base::shape_text(layout.shape) +
                         "; [layers, heads, context] or [tokens, layers, heads, context] is expected"};
    }
    const auto elements = base::shape_elements(shape, max_token_elements);
    const auto all = base::shape_elements(layout.shape, INT64_MAX / 8);
    if (!elements || !all || shape[0] > INT32_MAX || shape[1] > INT32_MAX) {
        return Error{ErrorKind::unsupported,
                     name + " has the shape " + base::shape_text(layout.shape) +
                         (layout.shape[0] == 0 ? ": 0 tokens" : ", which is empty or too large")};
    }
    array->bytes_ = std::move(bytes);
    array->layout_ = layout;
    array->name_ = name;
    array->tokens_ = array->stacked_ ? layout.shape[0] : 1;
    array->layers_ = shape[0];
    array->heads_ = shape[1];
    array->context_ = shape[2];
    return array;
}

Result<void> ArrayTokens::next(base::TokenBuffer& values) {
    if (at_ >= tokens_) return Error{ErrorKind::invalid_argument, name_ + " has no more tokens"};
    const size_t elements = static_cast<size_t>(layers_ * heads_ * context_);
    if (!layout_.fortran) {
        values.resize(elements);
        if (auto done = next_in_order(values.data()); !done) return done;
    } else {
        if (at_ >= batch_end_) {
            if (auto done = fill_batch(); !done) return done;
        }
        values.resize(elements);
        std::copy_n(batch_.begin() + (at_ - batch_begin_) * static_cast<int64_t>(elements), elements,
                    values.data());
    }
    ++at_;
    return {};
}

Result<void> ArrayTokens::next_in_order(float* out) {
    const size_t elements = static_cast<size_t>(layers_ * heads_ * context_);
    if (layout_.type == ElementType::f32) return bytes_->read(out, elements * sizeof(float));
    const size_t size = element_bytes(layout_.type), step = staging_bytes / size;
    staging_.resize(staging_bytes);
    for (size_t done = 0; done < elements; done += step) {
        const size_t n = std::min(step, elements - done);
        if (auto read = bytes_->read(staging_.data(), n * size); !read) return read;
        elements_to_float(layout_.type, staging_.data(), n, out + done);
    }
    return {};
}

// In Fortran order the token is the fastest index, so the whole array passes by once for each batch of
// tokens.
Result<void> ArrayTokens::fill_batch() {
    const int64_t elements = layers_ * heads_ * context_;
    batch_begin_ = at_;
    batch_end_ = std::min(tokens_, at_ + std::max<int64_t>(1, batch_elements / elements));
    batch_.resize(static_cast<size_t>((batch_end_ - batch_begin_) * elements));
    if (auto done = bytes_->rewind(); !done) return done;
    const size_t size = element_bytes(layout_.type), step = staging_bytes / size;
    staging_.resize(staging_bytes);
    std::vector<float> part(step);
    const int64_t all = tokens_ * elements;
    // (token, layer, head, context) of the element that comes next
    int64_t token = 0, layer = 0, head = 0, column = 0;
    for (int64_t done = 0; done < all; done += static_cast<int64_t>(step)) {
        const size_t n = static_cast<size_t>(std::min(static_cast<int64_t>(step), all - done));
        if (auto read = bytes_->read(staging_.data(), n * size); !read) return read;
        elements_to_float(layout_.type, staging_.data(), n, part.data());
        for (size_t i = 0; i < n; ++i) {
            if (token >= batch_begin_ && token < batch_end_) {
                const int64_t place = (layer * heads_ + head) * context_ + column;
                batch_[static_cast<size_t>((token - batch_begin_) * elements + place)] = part[i];
            }
            if (++token == tokens_) {
                token = 0;
                if (++layer == layers_) {
                    layer = 0;
                    if (++head == heads_) {
                        head = 0;
                        ++column;
                    }
                }
            }
        }
    }
    return {};
}

namespace {

class ArraysReader final : public CaptureReader {
public:
    ArraysReader(CaptureInfo info, std::vector<NamedArray> arrays)
        : info_(std::move(info)), arrays_(std::move(arrays)) {}
    const CaptureInfo& info() const override { return info_; }
    bool at_end() const override { return array_ >= arrays_.size(); }

    Result<const CaptureToken*> next() override {
        if (at_end()) return static_cast<const CaptureToken*>(nullptr);
        NamedArray& array = arrays_[array_];
        turn_ ^= 1;
        auto& [token, values] = slots_[turn_];
        token = CaptureToken{};
        token.index = token.number = index_++;
        token.source =
            array.tokens->stacked() ? array.name + "[" + std::to_string(in_array_) + "]" : array.name;
        token.n_layer = array.tokens->n_layer();
        token.n_head = array.tokens->n_head();
        token.n_context = array.tokens->n_context();
        auto done = array.tokens->next(values);
        if (!done || ++in_array_ == array.tokens->n_tokens()) {
            arrays_[array_++].tokens.reset();
            in_array_ = 0;
        }
        if (!done) return Error{done.error().kind, token.source + ": " + done.error().message};
        token.values = values.values();
        return &token;
    }

private:
    CaptureInfo info_;
    std::vector<NamedArray> arrays_;
    size_t array_ = 0;
    int64_t in_array_ = 0;
    int64_t index_ = 0;
    struct Slot {
        CaptureToken token;
        base::TokenBuffer values;
    };
    std::array<Slot, 2> slots_; // in turns: the token before is still looked at
    size_t turn_ = 0;
};

} // namespace

std::unique_ptr<CaptureReader> read_arrays(CaptureInfo info, std::vector<NamedArray> arrays) {
    // A single row among tensors of layers and heads is something else: positions, a mask.
    const auto is_tensor = [](const NamedArray& array) { return !array.tokens->aggregate(); };
    if (std::any_of(arrays.begin(), arrays.end(), is_tensor)) {
        for (const NamedArray& array : arrays) {
            if (!is_tensor(array)) info.notes.push_back(array.name + " has one axis: left out");
        }
        std::erase_if(arrays, std::not_fn(is_tensor));
    }
    info.n_tokens = 0;
    for (const NamedArray& array : arrays) {
        info.n_tokens += array.tokens->n_tokens();
        info.rectangular = info.rectangular || array.tokens->stacked();
    }
    return std::make_unique<ArraysReader>(std::move(info), std::move(arrays));
}

bool natural_less(const std::string& a, const std::string& b) {
    size_t i = 0, j = 0;
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    while (i < a.size() && j < b.size()) {
        if (digit(a[i]) && digit(b[j])) {
            size_t a_end = i, b_end = j;
            while (a_end < a.size() && digit(a[a_end]))
                ++a_end;
            while (b_end < b.size() && digit(b[b_end]))
                ++b_end;
            while (i < a_end && a[i] == '0')
                ++i;
            while (j < b_end && b[j] == '0')
                ++j;
            if (a_end - i != b_end - j) return a_end - i < b_end - j;
            const int order = a.compare(i, a_end - i, b, j, b_end - j);
            if (order != 0) return order < 0;
            i = a_end;
            j = b_end;
        } else {
            if (a[i] != b[j]) return a[i] < b[j];
            ++i;
            ++j;
        }
    }
    if (a.size() - i != b.size() - j) return a.size() - i < b.size() - j;
    return a < b;
}

} // namespace attnscope
