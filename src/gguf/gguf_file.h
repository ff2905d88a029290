// Reads the directory of a GGUF file (header, keys, list of tensors) from a file that nobody vouches for.
//
// Everything is bounded: a count, a length or an offset is believed only after the bytes that it speaks of
// are known to be there, and nothing is allocated that the file's size does not justify. Arrays stay in the
// file. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
#pragma once

#include <attnscope/error.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace attnscope::gguf {

// Where the bytes come from.
class GgufSource {
public:
    virtual ~GgufSource() = default;
    virtual uint64_t size() const = 0;
    // Copies [offset, offset + out.size()); false where that is not all there or cannot be read.
    virtual bool read(uint64_t offset, std::span<uint8_t> out) = 0;
};

Result<std::unique_ptr<GgufSource>> open_gguf_source(const std::string& path);
std::unique_ptr<GgufSource> memory_gguf_source(std::span<const uint8_t> bytes); // borrowed

enum class GgufType : uint32_t {
    uint8 = 0,
    int8,
    uint16,
    int16,
    uint32,
    int32,
    float32,
    boolean,
    string,
    array,
    uint64,
    int64,
    float64,
};
const char* gguf_value_type_name(GgufType type);

struct GgufKey {
    std::string name;
    GgufType type = GgufType::uint32;
    GgufType element = GgufType::uint32; // of an array
    uint64_t count = 0;                  // elements of an array; bytes of a string
    uint64_t offset = 0;                 // of the value, the first element, or the string's first byte
    uint64_t bits = 0;                   // a number's value as it lies in the file
    std::string text;                    // a string's first 1,000 bytes

    std::optional<uint32_t> u32() const;
    std::optional<float> f32() const;
    std::optional<bool> boolean() const;
};

struct GgufTensor {
    std::string name;
    std::array<int64_t, 4> ne = {1, 1, 1, 1};
    int32_t n_dims = 0;
    int32_t type = 0;    // a ggml_type that this build knows
    uint64_t offset = 0; // of its data in the file
    uint64_t bytes = 0;
};

struct GgufFile {
    GgufFile() = default;
    GgufFile(GgufFile&&) = default; // the index points into the keys, which a move leaves where they are
    GgufFile& operator=(GgufFile&&) = default;

    std::string path;
    uint32_t version = 0;
    uint64_t bytes = 0;
    std::vector<GgufKey> keys;
    std::vector<GgufTensor> tensors;
    std::unordered_map<std::string_view, size_t> key_index; // views into keys

    const GgufKey* find(std::string_view name) const;
};

// Reads and checks the structure: no key or tensor twice, every tensor's data inside the file. `path` is for
// messages.
Result<GgufFile> read_gguf(GgufSource& source, const std::string& path);

// Elements of a u32, i32 or bool array as u32; empty when the key is of another kind. At most `limit`
// elements.
std::vector<uint32_t> read_gguf_u32s(GgufSource& source, const GgufKey& key, uint64_t limit);

// The strings of an array, in order. A view lives until the next call; of a string longer than 64 KiB the
// first 64 KiB are shown.
class GgufStrings {
public:
    GgufStrings(GgufSource& source, const GgufKey& key) : source_(source), left_(key.count), offset_(key.offset) {}
    // The next string; nothing at the end or when it cannot be read.
    std::optional<std::string_view> next();
    uint64_t offset() const { return last_; } // of the string that next() returned

private:
    GgufSource& source_;
    uint64_t left_;
    uint64_t offset_;
    uint64_t last_ = 0;
    std::vector<uint8_t> buffer_;
};

} // namespace attnscope::gguf
