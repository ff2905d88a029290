// safetensors: 8 bytes of header size, a JSON header naming each tensor's dtype, shape and byte range, then
// the bytes. https://github.com/huggingface/safetensors#format
#include "formats/array_plan.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>

namespace attnscope::formats {

namespace {

constexpr int64_t header_limit = 16 << 20;

std::optional<ElementType> element_type(const std::string& name) {
    if (name == "F32") return ElementType::f32;
    if (name == "F16") return ElementType::f16;
    if (name == "BF16") return ElementType::bf16;
    if (name == "F64") return ElementType::f64;
    if (name == "I8") return ElementType::i8;
    if (name == "U8") return ElementType::u8;
    if (name == "I16") return ElementType::i16;
    if (name == "U16") return ElementType::u16;
    if (name == "I32") return ElementType::i32;
    if (name == "U32") return ElementType::u32;
    if (name == "I64") return ElementType::i64;
    if (name == "U64") return ElementType::u64;
    if (name == "BOOL") return ElementType::boolean;
    return std::nullopt;
}

} // namespace

Result<std::vector<StoredArray>> safetensors_arrays(std::shared_ptr<base::InputFile> file,
                                                    std::vector<std::string>& notes) {
    const std::string& path = file->path();
    uint8_t size_bytes[8];
    if (auto done = file->read_at(0, size_bytes, sizeof size_bytes); !done) return done.error();
    uint64_t size = 0;
    for (int i = 7; i >= 0; --i) size = size << 8 | size_bytes[i];
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
    std::vector<StoredArray> arrays;
    for (const auto& [name, entry] : header->items()) {
        if (name == "__metadata__" || !entry.is_object()) continue;
        const auto type = element_type(base::json_string(entry, "dtype"));
        const auto shape = base::json_shape(entry, "shape"), offsets = base::json_shape(entry, "data_offsets");
        if (!type || shape.empty() || offsets.size() != 2) {
            notes.push_back("tensor " + name.substr(0, 128) + " is no array of numbers that are read: left out");
            continue;
        }
        const auto elements = base::shape_elements(shape, INT64_MAX / 8);
        if (offsets[0] > offsets[1] || offsets[0] > file->size() ||
            (elements && offsets[1] - offsets[0] != *elements * static_cast<int64_t>(element_bytes(*type)))) {
            return Error{ErrorKind::damaged, "tensor " + name.substr(0, 128) + " of " + path +
                                                 " states a byte range that its shape does not fit"};
        }
        const int64_t end = std::min(offsets[1], file->size() - data_begin);
        arrays.push_back({name.substr(0, 128), ArrayLayout{shape, *type, false, false},
                          file_stretch(file, data_begin + offsets[0], data_begin + std::max(end, offsets[0]))});
    }
    return arrays;
}

OpenedDump open_safetensors(const std::string& path, const CaptureOptions& options) {
    auto opened = base::InputFile::open(path);
    if (!opened) return opened.error();
    DumpInfo info;
    info.path = path;
    info.format = "safetensors";
    auto arrays = safetensors_arrays(std::make_shared<base::InputFile>(std::move(*opened)), info.notes);
    if (!arrays) return arrays.error();
    // "attn-00001-of-00002.safetensors": the rest lies beside it
    const size_t of = path.rfind("-of-");
    if (of != std::string::npos && of > 5 && path.find('/', of) == std::string::npos && path[of - 1] >= '0' &&
        path[of - 1] <= '9') {
        info.notes.push_back(
            "one file of several (" + path.substr(of - 5) +
            "): only what is in this one is looked at; diagnose the folder, or the .index.json, for all");
    }
    return plan_arrays(std::move(info), std::move(*arrays), options);
}

} // namespace attnscope::formats
