#include "gguf/gguf_file.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

namespace attnscope::gguf {
namespace {

// Far beyond any real model (the largest have some 3,000 tensors and 300,000 tokens). llama.cpp looks for
// duplicates by comparing each with each, so counts that are merely possible would keep it busy for hours.
constexpr uint64_t max_keys = 16384;
constexpr uint64_t max_tensors = 32768;
constexpr uint64_t max_elements = uint64_t(1) << 24;
constexpr uint64_t max_key_name = 65535; // as the format says
constexpr size_t text_kept = 1000;

size_t value_bytes(GgufType type) {
    switch (type) {
    case GgufType::uint8:
    case GgufType::int8:
    case GgufType::boolean: return 1;
    case GgufType::uint16:
    case GgufType::int16: return 2;
    case GgufType::uint32:
    case GgufType::int32:
    case GgufType::float32: return 4;
    case GgufType::uint64:
    case GgufType::int64:
    case GgufType::float64: return 8;
    case GgufType::string:
    case GgufType::array: return 0;
    }
    return 0;
}

// Names come from the file: what is not printable ASCII is shown as a question mark, and long ones are cut.
std::string shown(std::string_view name) {
    std::string text(name.substr(0, 80));
    for (char& c : text) {
        if (c < 0x20 || c > 0x7E) c = '?';
    }
    return name.size() > 80 ? text + "..." : text;
}

class Parser {
public:
    Parser(GgufSource& source, const std::string& path) : source_(source) { file_.path = path; }

    Result<GgufFile> parse() {
        file_.bytes = source_.size();
        if (!header()) return error_;
        for (uint64_t i = 0; i < n_keys_; ++i) {
            if (!key(i)) return error_;
        }
        if (!index_keys() || !alignment()) return error_;
        for (uint64_t i = 0; i < n_tensors_; ++i) {
            if (!tensor(i)) return error_;
        }
        if (!place_tensors()) return error_;
        return std::move(file_);
    }

private:
    bool fail(ErrorKind kind, const std::string& what) {
        error_ = {kind, fmt::format("{} {}", file_.path, what)};
        return false;
    }
    bool damaged(const std::string& what) {
        return fail(ErrorKind::damaged, fmt::format("is damaged at byte {}: {}", at_, what));
    }
    bool ends_in(const std::string& what) {
        return fail(ErrorKind::damaged, fmt::format("is cut off: it has {} bytes and ends in {}", file_.bytes, what));
    }

    uint64_t left() const { return file_.bytes - at_; }
    template <typename T> bool number(T& value) {
        std::array<uint8_t, sizeof(T)> raw;
        if (left() < sizeof(T) || !source_.read(at_, raw)) return false;
        std::memcpy(&value, raw.data(), sizeof(T));
        at_ += sizeof(T);
        return true;
    }
    bool bytes(uint64_t n, std::string& out) {
        out.resize(size_t(n));
        if (!source_.read(at_, {reinterpret_cast<uint8_t*>(out.data()), out.size()})) return false;
        at_ += n;
        return true;
    }

    // What is downloaded in a model's place most often.
    std::string what_instead() {
        std::array<uint8_t, 256> start{};
        const size_t n = size_t(std::min<uint64_t>(file_.bytes, start.size()));
        if (!source_.read(0, {start.data(), n})) return "";
        std::string text(start.begin(), start.begin() + std::ptrdiff_t(n));
        for (char& c : text)
            if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
        if (text.rfind("version https://git-lfs", 0) == 0)
            return ". It is a Git LFS pointer, a note of some lines in the model's place: fetch the file itself with "
                   "git lfs pull";
        const size_t first = text.find_first_not_of(" \n\r\t");
        if (first != std::string::npos &&
            (text.compare(first, 14, "<!doctype html") == 0 || text.compare(first, 5, "<html") == 0))
            return ". It is an HTML page, as a download from a model's page instead of its file leaves it (on Hugging "
                   "Face: "
                   "/resolve/, not /blob/)";
        return "";
    }

    bool header() {
        std::array<uint8_t, 4> magic{};
        if (file_.bytes < 4 || !source_.read(0, magic) || std::memcmp(magic.data(), "GGUF", 4) != 0) {
            return fail(ErrorKind::not_ours,
                        "is not a GGUF file: it does not begin with the letters GGUF" + what_instead());
        }
        at_ = 4;
        if (!number(file_.version)) return ends_in("the header");
        if (file_.version == 0x02000000 || file_.version == 0x03000000) {
            return fail(ErrorKind::unsupported, "is a big-endian GGUF file; this machine needs the little-endian one");
        }
        if (file_.version == 1)
            return fail(ErrorKind::unsupported, "is GGUF version 1, which llama.cpp no longer reads");
        if (file_.version == 0 || file_.version > 3) {
            return fail(file_.version == 0 ? ErrorKind::damaged : ErrorKind::too_new,
                        fmt::format("says it is GGUF version {}; versions 2 and 3 are known", file_.version));
        }
        if (!number(n_tensors_) || !number(n_keys_)) return ends_in("the header");
        if (n_tensors_ > max_tensors) return damaged(fmt::format("it claims {} tensors", n_tensors_));
        if (n_keys_ > max_keys) return damaged(fmt::format("it claims {} keys", n_keys_));
        return true;
    }

    bool key(uint64_t i) {
        GgufKey key;
        uint64_t length = 0;
        if (!number(length)) return ends_in(fmt::format("key {} of {}", i + 1, n_keys_));
        if (length == 0 || length > max_key_name)
            return damaged(fmt::format("the name of key {} is {} bytes long", i + 1, length));
        if (length > left()) return ends_in(fmt::format("the name of key {}, which claims {} bytes", i + 1, length));
        if (!bytes(length, key.name)) return ends_in(fmt::format("key {}", i + 1));
        uint32_t type = 0;
        if (!number(type)) return ends_in(fmt::format("key {}", shown(key.name)));
        if (type > uint32_t(GgufType::float64)) {
            return damaged(fmt::format("key {} is of type {}, which does not exist", shown(key.name), type));
        }
        key.type = GgufType(type);
        const bool good = key.type == GgufType::array    ? array_value(key)
                          : key.type == GgufType::string ? string_value(key)
                                                         : number_value(key);
        if (!good) return false;
        file_.keys.push_back(std::move(key));
        return true;
    }

    bool number_value(GgufKey& key) {
        const size_t n = value_bytes(key.type);
        std::array<uint8_t, 8> raw{};
        if (left() < n || !source_.read(at_, std::span(raw).first(n))) {
            return ends_in(fmt::format("the value of key {}", shown(key.name)));
        }
        key.offset = at_;
        std::memcpy(&key.bits, raw.data(), 8);
        at_ += n;
        return true;
    }

    bool string_value(GgufKey& key) {
        if (!number(key.count)) return ends_in(fmt::format("the value of key {}", shown(key.name)));
        if (key.count > left()) {
            return ends_in(fmt::format("the value of key {}, which claims {} bytes", shown(key.name), key.count));
        }
        key.offset = at_;
        if (!bytes(std::min<uint64_t>(key.count, text_kept), key.text)) {
            return ends_in(fmt::format("the value of key {}", shown(key.name)));
        }
        at_ = key.offset + key.count;
        return true;
    }

    bool array_value(GgufKey& key) {
        uint32_t element = 0;
        if (!number(element) || !number(key.count)) return ends_in(fmt::format("the value of key {}", shown(key.name)));
        if (element > uint32_t(GgufType::float64) || GgufType(element) == GgufType::array) {
            return damaged(fmt::format("key {} is an array of {}", shown(key.name),
                                       GgufType(element) == GgufType::array
                                           ? std::string("arrays")
                                           : fmt::format("type {}, which does not exist", element)));
        }
        if (key.count > max_elements) {
            return damaged(fmt::format("key {} claims {} elements", shown(key.name), key.count));
        }
        key.element = GgufType(element);
        key.offset = at_;
        const uint64_t size = key.element == GgufType::string ? 8 : value_bytes(key.element); // a string's at least
        if (key.count > left() / size) {
            return ends_in(fmt::format("the value of key {}, which claims {} elements", shown(key.name), key.count));
        }
        if (key.element != GgufType::string) {
            at_ += key.count * size;
            return true;
        }
        for (uint64_t i = 0; i < key.count; ++i) {
            uint64_t length = 0;
            if (!number(length)) return ends_in(fmt::format("element {} of key {}", i, shown(key.name)));
            if (length > left()) {
                return ends_in(fmt::format("element {} of key {}, which claims {} bytes", i, shown(key.name), length));
            }
            at_ += length;
        }
        return true;
    }

    bool index_keys() {
        for (size_t i = 0; i < file_.keys.size(); ++i) {
            if (!file_.key_index.emplace(file_.keys[i].name, i).second) {
                return fail(ErrorKind::damaged, fmt::format("holds the key {} twice", shown(file_.keys[i].name)));
            }
        }
        return true;
    }

    bool alignment() {
        const GgufKey* key = file_.find("general.alignment");
        if (key == nullptr) return true;
        if (key->type != GgufType::uint32) {
            return fail(ErrorKind::damaged, fmt::format("has a key general.alignment of type {}; it must be uint32",
                                                        gguf_value_type_name(key->type)));
        }
        alignment_ = *key->u32();
        if (!std::has_single_bit(alignment_) || alignment_ > (1u << 20)) {
            return fail(ErrorKind::damaged,
                        fmt::format("has a key general.alignment of {}; it must be a power of two, at "
                                    "most 1048576",
                                    alignment_));
        }
        return true;
    }

    bool tensor(uint64_t i) {
        GgufTensor t;
        uint64_t length = 0;
        if (!number(length)) return ends_in(fmt::format("tensor {} of {}", i + 1, n_tensors_));
        if (length == 0 || length >= GGML_MAX_NAME) {
            return damaged(fmt::format("the name of tensor {} is {} bytes long; 1 to {} can be", i + 1, length,
                                       GGML_MAX_NAME - 1));
        }
        if (length > left() || !bytes(length, t.name)) return ends_in(fmt::format("the name of tensor {}", i + 1));
        if (t.name.find('\0') != std::string::npos)
            return damaged(fmt::format("the name of tensor {} holds a zero byte", i + 1));
        const std::string name = shown(t.name);
        if (!names_.insert(t.name).second)
            return fail(ErrorKind::damaged, fmt::format("holds the tensor {} twice", name));
        uint32_t n_dims = 0;
        if (!number(n_dims)) return ends_in(fmt::format("tensor {}", name));
        if (n_dims < 1 || n_dims > t.ne.size())
            return damaged(fmt::format("tensor {} has {} dimensions", name, n_dims));
        t.n_dims = int32_t(n_dims);
        int64_t elements = 1;
        for (uint32_t d = 0; d < n_dims; ++d) {
            if (!number(t.ne[d])) return ends_in(fmt::format("the shape of tensor {}", name));
            if (t.ne[d] < 1) return damaged(fmt::format("dimension {} of tensor {} is {}", d, name, t.ne[d]));
            if (t.ne[d] > INT64_MAX / 16 / elements)
                return damaged(fmt::format("tensor {} has more elements than can be counted", name));
            elements *= t.ne[d];
        }
        if (!number(t.type) || !number(t.offset)) return ends_in(fmt::format("tensor {}", name));
        if (t.type < 0 || t.type >= GGML_TYPE_COUNT || ggml_blck_size(ggml_type(t.type)) == 0 ||
            ggml_type_size(ggml_type(t.type)) == 0) {
            return damaged(
                fmt::format("tensor {} is of type {}, which this build of ggml does not know", name, t.type));
        }
        const int64_t block = ggml_blck_size(ggml_type(t.type));
        if (t.ne[0] % block != 0) {
            return damaged(fmt::format("rows of tensor {} have {} elements, no multiple of {}, the block size of {}",
                                       name, t.ne[0], block, ggml_type_name(ggml_type(t.type))));
        }
        const uint64_t blocks = uint64_t(elements / block), size = ggml_type_size(ggml_type(t.type));
        if (blocks > UINT64_MAX / 4 / size)
            return damaged(fmt::format("tensor {} has more bytes than can be counted", name));
        t.bytes = blocks * size;
        file_.tensors.push_back(std::move(t));
        return true;
    }

    // The format wants each tensor directly after the one before, padded to the alignment; llama.cpp insists
    // on it.
    bool place_tensors() {
        const uint64_t mask = alignment_ - 1;
        const uint64_t start = (at_ + mask) & ~mask;
        uint64_t expected = 0;
        for (GgufTensor& t : file_.tensors) {
            if (t.offset != expected) {
                return fail(ErrorKind::damaged,
                            fmt::format("says that tensor {} lies at {} of the data, where {} is expected",
                                        shown(t.name), t.offset, expected));
            }
            if (start > file_.bytes || t.offset > file_.bytes - start || t.bytes > file_.bytes - start - t.offset) {
                return ends_in(fmt::format("tensor {}, whose data needs {} bytes from byte {}", shown(t.name), t.bytes,
                                           start + t.offset));
            }
            expected = (t.offset + t.bytes + mask) & ~mask;
            t.offset += start;
        }
        return true;
    }

    GgufSource& source_;
    GgufFile file_;
    Error error_;
    uint64_t at_ = 0;
    uint64_t n_tensors_ = 0;
    uint64_t n_keys_ = 0;
    uint32_t alignment_ = 32;
    std::unordered_set<std::string> names_;
};

} // namespace

const char* gguf_value_type_name(GgufType type) {
    constexpr const char* names[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                     "bool",  "string", "array",  "uint64", "int64",  "float64"};
    return size_t(type) < std::size(names) ? names[size_t(type)] : "?";
}

std::optional<uint32_t> GgufKey::u32() const {
    return type == GgufType::uint32 ? std::optional(uint32_t(bits)) : std::nullopt;
}

std::optional<float> GgufKey::f32() const {
    return type == GgufType::float32 ? std::optional(std::bit_cast<float>(uint32_t(bits))) : std::nullopt;
}

std::optional<bool> GgufKey::boolean() const {
    return type == GgufType::boolean ? std::optional(bits != 0) : std::nullopt;
}

const GgufKey* GgufFile::find(std::string_view name) const {
    const auto it = key_index.find(name);
    return it == key_index.end() ? nullptr : &keys[it->second];
}

Result<GgufFile> read_gguf(GgufSource& source, const std::string& path) {
    return Parser(source, path).parse();
}

std::vector<uint32_t> read_gguf_u32s(GgufSource& source, const GgufKey& key, uint64_t limit) {
    std::vector<uint32_t> values;
    if (key.type != GgufType::array || key.count > limit) return values;
    const bool flags = key.element == GgufType::boolean;
    if (!flags && key.element != GgufType::uint32 && key.element != GgufType::int32) return values;
    values.resize(size_t(key.count));
    if (!flags) {
        if (!source.read(key.offset, {reinterpret_cast<uint8_t*>(values.data()), values.size() * 4})) values.clear();
        return values;
    }
    std::vector<uint8_t> raw(values.size());
    if (!source.read(key.offset, raw)) return {};
    std::transform(raw.begin(), raw.end(), values.begin(), [](uint8_t b) { return uint32_t(b != 0); });
    return values;
}

std::optional<std::string_view> GgufStrings::next() {
    std::array<uint8_t, 8> raw;
    if (left_ == 0 || !source_.read(offset_, raw)) return std::nullopt;
    uint64_t length = 0;
    std::memcpy(&length, raw.data(), 8);
    buffer_.resize(size_t(std::min<uint64_t>(length, 65536)));
    if (!source_.read(offset_ + 8, buffer_)) return std::nullopt;
    last_ = offset_ + 8;
    offset_ = last_ + length;
    --left_;
    return std::string_view(reinterpret_cast<const char*>(buffer_.data()), buffer_.size());
}

} // namespace attnscope::gguf
