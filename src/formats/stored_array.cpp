#include "formats/stored_array.h"

#include "base/halves.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace attnscope::formats {

static_assert(std::endian::native == std::endian::little, "files are read in the machine's own byte order");

namespace {

constexpr size_t staging_bytes = size_t(1) << 18; // stays in the second-level cache

template <typename T> void whole_numbers(const uint8_t* from, size_t n, float* to) {
    for (size_t i = 0; i < n; ++i) {
        T value = 0;
        std::memcpy(&value, from + sizeof(T) * i, sizeof(T));
        to[i] = static_cast<float>(value);
    }
}

class FileStretch final : public base::ByteStream {
public:
    FileStretch(std::shared_ptr<base::InputFile> file, int64_t begin, int64_t end)
        : file_(std::move(file)), begin_(begin), end_(end), at_(begin) {}
    Result<void> seek(int64_t offset) override {
        if (offset > end_ - begin_) return cut();
        at_ = begin_ + offset;
        return {};
    }
    Result<void> read(void* out, size_t n) override {
        if (static_cast<int64_t>(n) > end_ - at_) return cut();
        auto done = file_->read_at(at_, out, n);
        if (done) at_ += static_cast<int64_t>(n);
        return done;
    }

private:
    Error cut() const { return {ErrorKind::damaged, file_->path() + " ends before its array does"}; }
    std::shared_ptr<base::InputFile> file_;
    int64_t begin_, end_, at_;
};

} // namespace

std::unique_ptr<base::ByteStream> file_stretch(std::shared_ptr<base::InputFile> file, int64_t begin, int64_t end) {
    return std::make_unique<FileStretch>(std::move(file), begin, end);
}

size_t element_bytes(ElementType type) {
    switch (type) {
    case ElementType::i8:
    case ElementType::u8:
    case ElementType::boolean: return 1;
    case ElementType::f16:
    case ElementType::bf16:
    case ElementType::i16:
    case ElementType::u16: return 2;
    case ElementType::f32:
    case ElementType::i32:
    case ElementType::u32: return 4;
    case ElementType::f64:
    case ElementType::i64:
    case ElementType::u64: return 8;
    }
    return 1;
}

const char* element_name(ElementType type) {
    static constexpr const char* names[] = {"float16", "bfloat16", "float32", "float64", "int8",   "uint8", "int16",
                                            "uint16",  "int32",    "uint32",  "int64",   "uint64", "bool"};
    return names[static_cast<size_t>(type)];
}

void swap_elements(ElementType type, uint8_t* bytes, size_t n) {
    const size_t size = element_bytes(type);
    if (size == 1) return;
    for (size_t i = 0; i < n; ++i) std::reverse(bytes + i * size, bytes + (i + 1) * size);
}

void elements_to_float(ElementType type, const uint8_t* from, size_t n, float* to) {
    switch (type) {
    case ElementType::f32: std::memcpy(to, from, n * sizeof(float)); return;
    case ElementType::f16:
        for (size_t i = 0; i < n; ++i) {
            uint16_t half = 0;
            std::memcpy(&half, from + 2 * i, 2);
            to[i] = base::f16_to_float(half);
        }
        return;
    case ElementType::bf16:
        for (size_t i = 0; i < n; ++i) {
            uint16_t top = 0;
            std::memcpy(&top, from + 2 * i, 2);
            to[i] = base::bf16_to_float(top);
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
    case ElementType::i8: return whole_numbers<int8_t>(from, n, to);
    case ElementType::u8:
    case ElementType::boolean: return whole_numbers<uint8_t>(from, n, to);
    case ElementType::i16: return whole_numbers<int16_t>(from, n, to);
    case ElementType::u16: return whole_numbers<uint16_t>(from, n, to);
    case ElementType::i32: return whole_numbers<int32_t>(from, n, to);
    case ElementType::u32: return whole_numbers<uint32_t>(from, n, to);
    case ElementType::i64: return whole_numbers<int64_t>(from, n, to);
    case ElementType::u64: return whole_numbers<uint64_t>(from, n, to);
    }
}

std::vector<int64_t> StoredArray::storage_shape() const {
    std::vector<int64_t> shape = layout.shape;
    if (layout.fortran) std::reverse(shape.begin(), shape.end());
    return shape;
}

Result<void> StoredArray::read(int64_t first, size_t n, float* out) {
    const size_t size = element_bytes(layout.type), step = staging_bytes / size;
    if (auto done = bytes->seek(first * static_cast<int64_t>(size)); !done) return done;
    if (layout.type == ElementType::f32 && !layout.big_endian) return bytes->read(out, n * sizeof(float));
    staging_.resize(staging_bytes);
    for (size_t done = 0; done < n; done += step) {
        const size_t now = std::min(step, n - done);
        if (auto read = bytes->read(staging_.data(), now * size); !read) return read;
        if (layout.big_endian) swap_elements(layout.type, staging_.data(), now);
        elements_to_float(layout.type, staging_.data(), now, out + done);
    }
    return {};
}

bool natural_less(const std::string& a, const std::string& b) {
    size_t i = 0, j = 0;
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    while (i < a.size() && j < b.size()) {
        if (digit(a[i]) && digit(b[j])) {
            size_t a_end = i, b_end = j;
            while (a_end < a.size() && digit(a[a_end])) ++a_end;
            while (b_end < b.size() && digit(b[b_end])) ++b_end;
            while (i < a_end && a[i] == '0') ++i;
            while (j < b_end && b[j] == '0') ++j;
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

} // namespace attnscope::formats
