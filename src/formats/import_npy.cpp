// NumPy's .npy: magic, version, a header that is the text of a Python dictionary, then the elements.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#include "formats/npy_header.h"

#include "formats/array_plan.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

namespace attnscope::formats {

namespace {

// Reads just the dictionary that numpy writes: three known keys, a string, a boolean and a tuple of whole
// numbers.
class HeaderText {
public:
    explicit HeaderText(const std::string& text) : text_(text) {}

    bool parse(ArrayLayout& layout, std::string& problem) {
        bool descr = false, order = false, shape = false;
        if (!take('{')) return fail(problem, "does not hold a dictionary");
        while (!take('}')) {
            std::string key;
            if (!string(key) || !take(':')) return fail(problem, "is not a dictionary that numpy writes");
            if (key == "descr") {
                std::string type;
                if (!string(type))
                    return fail(problem,
                                "has a structured type; a plain number is expected: save one field, x['attention']");
                if (!element_type(type, layout, problem)) return false;
                descr = true;
            } else if (key == "fortran_order") {
                if (word("True"))
                    layout.fortran = true;
                else if (word("False"))
                    layout.fortran = false;
                else
                    return fail(problem, "does not say whether it is in Fortran order");
                order = true;
            } else if (key == "shape") {
                if (!tuple(layout.shape)) return fail(problem, "has a shape that is none");
                shape = true;
            } else {
                return fail(problem, "has the unknown key '" + key.substr(0, 64) + "'");
            }
            take(',');
        }
        if (!descr || !order || !shape) return fail(problem, "lacks the type, the order or the shape");
        return true;
    }

private:
    static bool element_type(const std::string& type, ArrayLayout& layout, std::string& problem) {
        static constexpr std::pair<std::string_view, ElementType> known[] = {
            {"f4", ElementType::f32}, {"f2", ElementType::f16}, {"f8", ElementType::f64}, {"i1", ElementType::i8},
            {"u1", ElementType::u8},  {"i2", ElementType::i16}, {"u2", ElementType::u16}, {"i4", ElementType::i32},
            {"u4", ElementType::u32}, {"i8", ElementType::i64}, {"u8", ElementType::u64}, {"b1", ElementType::boolean},
            {"V2", ElementType::bf16}}; // NumPy has no name for ml_dtypes' bfloat16
        if (type == "|O") {
            return fail(problem,
                        "says that it is an array of Python objects (pickled, as rows of different lengths become): "
                        "it is not opened, because a pickle is a program. Save each step as an array of its own: "
                        "np.savez(f, *steps)");
        }
        const std::string_view kind = type.size() > 1 ? std::string_view(type).substr(1) : std::string_view();
        const auto at =
            std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return k.first == kind; });
        if (at == std::end(known) || std::string_view("<>=|").find(type[0]) == std::string_view::npos) {
            return fail(problem, "has the element type '" + type.substr(0, 32) +
                                     "'; floating-point and whole numbers are read: x.astype('<f4') in NumPy");
        }
        layout.type = at->second;
        layout.big_endian = type[0] == '>';
        return true;
    }
    static bool fail(std::string& problem, std::string text) {
        problem = std::move(text);
        return false;
    }
    void spaces() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
    }
    bool take(char c) {
        spaces();
        if (at_ >= text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    bool word(const char* expected) {
        spaces();
        const size_t n = std::strlen(expected);
        if (text_.compare(at_, n, expected) != 0) return false;
        at_ += n;
        return true;
    }
    bool string(std::string& out) {
        spaces();
        if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) return false;
        const char quote = text_[at_++];
        const size_t end = text_.find(quote, at_);
        if (end == std::string::npos) return false;
        out = text_.substr(at_, end - at_);
        at_ = end + 1;
        return true;
    }
    bool tuple(std::vector<int64_t>& out) {
        out.clear();
        if (!take('(')) return false;
        while (!take(')')) {
            spaces();
            int64_t value = 0;
            size_t digits = 0;
            for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
                if (++digits > 18) return false; // above any array that can exist
                value = value * 10 + (text_[at_] - '0');
            }
            if (digits == 0 || out.size() >= 8) return false;
            out.push_back(value);
            take(',');
        }
        return true;
    }

    const std::string& text_;
    size_t at_ = 0;
};

} // namespace

Result<NpyHeader> read_npy_header(base::ByteStream& bytes, const std::string& name) {
    unsigned char start[8];
    if (auto done = bytes.read(start, sizeof start); !done) return done.error();
    if (std::memcmp(start, "\x93NUMPY", 6) != 0) {
        return Error{ErrorKind::not_ours, name + " is not a .npy file: it does not start with \\x93NUMPY"};
    }
    if (start[6] < 1 || start[6] > 3) {
        return Error{ErrorKind::too_new, name + " has .npy version " + std::to_string(start[6]) + "; 1 to 3 are known"};
    }
    unsigned char size_bytes[4] = {};
    const size_t size_size = start[6] == 1 ? 2 : 4;
    if (auto done = bytes.read(size_bytes, size_size); !done) return done.error();
    const uint32_t size =
        size_bytes[0] | uint32_t(size_bytes[1]) << 8 | uint32_t(size_bytes[2]) << 16 | uint32_t(size_bytes[3]) << 24;
    if (size > 65536) {
        return Error{ErrorKind::damaged, name + " states a header of " + std::to_string(size) + " bytes"};
    }
    std::string text(size, '\0');
    if (auto done = bytes.read(text.data(), text.size()); !done) return done.error();
    NpyHeader header;
    std::string problem;
    if (!HeaderText(text).parse(header.layout, problem)) {
        return Error{ErrorKind::unsupported, "the header of " + name + " " + problem};
    }
    header.bytes = static_cast<int64_t>(sizeof start + size_size + size);
    return header;
}

OpenedDump open_npy(const std::string& path, const CaptureOptions& options) {
    auto opened = base::InputFile::open(path);
    if (!opened) return opened.error();
    const auto file = std::make_shared<base::InputFile>(std::move(*opened));
    auto whole = file_stretch(file, 0, file->size());
    auto header = read_npy_header(*whole, path);
    if (!header) return header.error();
    DumpInfo info;
    info.path = path;
    info.format = "npy";
    const std::string name = path.substr(path.find_last_of('/') + 1);
    std::vector<StoredArray> arrays;
    arrays.push_back({name, header->layout, file_stretch(file, header->bytes, file->size())});
    CaptureOptions only = options;
    only.array.clear();
    return plan_arrays(std::move(info), std::move(arrays), only);
}

} // namespace attnscope::formats
