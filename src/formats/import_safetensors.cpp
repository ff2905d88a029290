// safetensors: 8 bytes of header size, a JSON header naming each tensor's dtype, shape and byte range, then
// the bytes. https://github.com/huggingface/safetensors#format
#include "formats/array_tokens.h"
#include "formats/importers.h"

#include <algorithm>
#include <optional>

namespace attnscope {

namespace {

constexpr int64_t header_limit = 16 << 20;

std::optional<ElementType> element_type(const std::string& name) {
    if (name == "F32") return ElementType::f32;
    if (name == "F16") return ElementType::f16;
    if (name == "BF16") return ElementType::bf16;
    if (name == "F64") return ElementType::f64;
    return std::nullopt;
}

} // namespace

OpenedCapture open_safetensors(const std::string& path, const CaptureOptions& options) {
    auto opened = base::InputFile::open(path);
    if (!opened) return opened.error();
    const auto file = std::make_shared<base::InputFile>(std::move(*opened));
    uint8_t size_bytes[8];
    if (auto done = file->read_at(0, size_bytes, sizeof size_bytes); !done) return done.error();
    uint64_t size = 0;
    for (int i = 7; i >= 0; --i)
        size = size << 8 | size_bytes[i];
    if (size > uint64_t(header_limit) || static_cast<int64_t>(size) > file->size() - 8) {
        return Error{ErrorKind::damaged, path + " states a safetensors header of " + std::to_string(size) +
                                             " bytes; it can have " +
                                             std::to_string(std::min(header_limit, file->size() - 8))};
    }
    std::string text(static_cast<size_t>(size), '\0');
    if (auto done = file->read_at(8, text.data(), text.size()); !done) return done.error();
    auto header = base::parse_json_object(text, "the header of " + path);
    if (!header) return header.error();

    const int64_t data_begin = 8 + static_cast<int64_t>(size);
    CaptureInfo info;
    info.path = path;
    info.format = "safetensors";
    std::vector<NamedArray> arrays;
    for (const auto& [name, entry] : header->items()) {
        const bool wanted = options.array.empty() ? name != "__metadata__" : name == options.array;
        if (!wanted || !entry.is_object()) continue;
        const auto type = element_type(base::json_string(entry, "dtype"));
        const auto shape = base::json_shape(entry, "shape"), offsets = base::json_shape(entry, "data_offsets");
        if (!type || shape.empty() || offsets.size() != 2) {
            info.notes.push_back("tensor " + name.substr(0, 128) +
                                 " is no array of F16, BF16, F32 or F64: left out");
            continue;
        }
        const auto elements = base::shape_elements(shape, INT64_MAX / 8);
        if (offsets[0] > offsets[1] || offsets[0] > file->size() ||
            (elements && offsets[1] - offsets[0] != *elements * static_cast<int64_t>(element_bytes(*type)))) {
            return Error{ErrorKind::damaged, "tensor " + name.substr(0, 128) + " of " + path +
                                                 " states a byte range that its shape does not fit"};
        }
        const int64_t end = std::min(offsets[1], file->size() - data_begin);
        ArrayLayout layout{shape, *type, false};
        auto tokens = ArrayTokens::make(
            file_stretch(file, data_begin + offsets[0], data_begin + std::max(end, offsets[0])), layout,
            "tensor " + name.substr(0, 128));
        if (!tokens) {
            info.notes.push_back(tokens.error().message + ": left out");
            continue;
        }
        info.storage = element_name(*type);
        arrays.push_back({name.substr(0, 128), std::move(*tokens)});
    }
    if (arrays.empty()) {
        return Error{ErrorKind::unsupported, path + " holds no array of attention" +
                                                 (info.notes.empty() ? "" : ": " + info.notes.front())};
    }
    std::sort(arrays.begin(), arrays.end(),
              [](const NamedArray& a, const NamedArray& b) { return natural_less(a.name, b.name); });
    return read_arrays(std::move(info), std::move(arrays));
}

} // namespace attnscope
