#include "gguf/gguf_check.h"

#include "gguf/gguf_rules.h"

#include <fmt/format.h>

namespace attnscope::gguf {
namespace {

Error not_a_model(const GgufFile& file, const std::string& what) {
    return {ErrorKind::not_ours, fmt::format("{} is {}, not a model", file.path, what)};
}

Result<const Architecture*> architecture_of(const GgufFile& file) {
    const GgufKey* type = file.find("general.type");
    if (type != nullptr && type->type == GgufType::string && type->text != "model" && !type->text.empty()) {
        if (type->text == "adapter") return not_a_model(file, "a LoRA adapter");
        if (type->text == "imatrix") return not_a_model(file, "an importance matrix");
    }
    const GgufKey* key = file.find("general.architecture");
    if (key == nullptr) return Error{ErrorKind::damaged, fmt::format("{} has no key general.architecture", file.path)};
    if (key->type != GgufType::string) {
        return Error{ErrorKind::damaged,
                     fmt::format("{} has a key general.architecture that is not a string", file.path)};
    }
    if (const Architecture* arch = find_architecture(key->text)) return arch;
    std::string name = key->text.substr(0, 40);
    for (char& c : name) c = c < 0x20 || c > 0x7E ? '?' : c;
    return Error{
        ErrorKind::unsupported,
        fmt::format("{} is a model of architecture \"{}\", which llama.cpp v0.5.0 does not know", file.path, name)};
}

// The number of a split key, which is a uint16.
Result<uint32_t> split_number(const GgufFile& file, const char* name) {
    const GgufKey* key = file.find(name);
    if (key == nullptr) return 0u;
    if (key->type != GgufType::uint16) {
        return Error{ErrorKind::damaged, fmt::format("{} has a key {} of type {}; it must be uint16", file.path, name,
                                                     gguf_value_type_name(key->type))};
    }
    return uint32_t(key->bits);
}

// Reads the further parts of a split model, named as llama.cpp names them, and takes over their tensors.
Result<void> add_parts(const GgufFile& first, uint32_t n_parts, std::vector<GgufTensor>& tensors,
                       GgufSummary& summary) {
    const std::string ending = fmt::format("-00001-of-{:05}.gguf", n_parts);
    if (!first.path.ends_with(ending)) {
        return Error{
            ErrorKind::invalid_argument,
            fmt::format("{} is the first of {} parts, but its name does not end in {}", first.path, n_parts, ending)};
    }
    const std::string stem = first.path.substr(0, first.path.size() - ending.size());
    for (uint32_t i = 1; i < n_parts; ++i) {
        const std::string path = fmt::format("{}-{:05}-of-{:05}.gguf", stem, i + 1, n_parts);
        auto source = open_gguf_source(path);
        if (!source) return source.error();
        auto part = read_gguf(**source, path);
        if (!part) return part.error();
        const auto number = split_number(*part, "split.no");
        if (!number) return number.error();
        if (*number != i) {
            return Error{ErrorKind::damaged,
                         fmt::format("{} says it is part {}, where part {} belongs", path, *number + 1, i + 1)};
        }
        summary.file_bytes += part->bytes;
        for (GgufTensor& t : part->tensors) tensors.push_back(std::move(t));
    }
    return {};
}

Result<GgufSummary> check(GgufSource& source, const std::string& path, bool may_have_parts) {
    auto file = read_gguf(source, path);
    if (!file) return file.error();
    const auto arch = architecture_of(*file);
    if (!arch) return arch.error();
    const auto part = split_number(*file, "split.no");
    if (!part) return part.error();
    const auto n_parts = split_number(*file, "split.count");
    if (!n_parts) return n_parts.error();
    if (*n_parts > 1 && *part != 0) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("{} is part {} of {} of a model; name its first part", path, *part + 1, *n_parts)};
    }
    if (file->tensors.empty()) return not_a_model(*file, "a GGUF file without tensors");

    GgufCheck c{source, *file, *arch, 0, {}};
    c.summary.architecture = (*arch)->name;
    c.summary.version = file->version;
    c.summary.file_bytes = file->bytes;
    c.summary.n_parts = int32_t(std::max(1u, *n_parts));
    if (const GgufKey* name = file->find("general.name"); name != nullptr && name->type == GgufType::string) {
        c.summary.name = name->text;
    }
    std::vector<GgufTensor> tensors = std::move(file->tensors);
    if (*n_parts > 1 && may_have_parts) {
        if (auto r = add_parts(*file, *n_parts, tensors, c.summary); !r) return r.error();
    }
    c.summary.n_tensors = int64_t(tensors.size());
    c.summary.no_text_reason = no_text_reason((*arch)->kind);
    if ((*arch)->kind == ArchKind::projector || (*arch)->kind == ArchKind::audio) return c.summary;

    if (auto r = check_hyperparameters(c); !r) return r.error();
    if (auto r = check_vocabulary(c); !r) return r.error();
    if (auto r = check_tensors(c, tensors); !r) return r.error();

    const GgufKey* pooling = c.find("pooling_type");
    // LLAMA_POOLING_TYPE_RANK is the last; llama.cpp's own files hold -1 where none is specified
    constexpr uint32_t last_pooling = 4, no_pooling = UINT32_MAX;
    const uint32_t pooling_type = pooling == nullptr ? no_pooling : pooling->u32().value_or(0);
    if (pooling_type > last_pooling && pooling_type != no_pooling) {
        return c.damaged(
            fmt::format("has a key {} of {}; at most {} can be", pooling->name, pooling_type, last_pooling));
    }
    const bool pools = pooling_type >= 1 && pooling_type <= last_pooling;
    c.summary.embedding_only = (*arch)->kind == ArchKind::embedding || pools;
    if (pools) c.summary.no_text_reason = no_text_reason(ArchKind::embedding);
    const GgufKey* causal = c.find("attention.causal");
    if (c.summary.no_text_reason.empty() && causal != nullptr && causal->boolean() == false) {
        c.summary.no_text_reason = "its tokens attend in both directions";
    }
    const ArchKind kind = (*arch)->kind;
    const bool both_ways = causal != nullptr ? causal->boolean() == false : kind == ArchKind::embedding;
    c.summary.reads_whole_texts =
        kind == ArchKind::diffusion || kind == ArchKind::embedding || kind == ArchKind::encoder_decoder || both_ways;
    c.summary.reads_texts = c.summary.reads_whole_texts || pools;
    c.summary.encoder_decoder = kind == ArchKind::encoder_decoder && !pools;
    if (kind == ArchKind::draft) c.summary.reads_whole_texts = c.summary.reads_texts = false;
    return c.summary;
}

} // namespace

Result<GgufSummary> check_gguf(const std::string& path) {
    auto source = open_gguf_source(path);
    if (!source) return source.error();
    return check(**source, path, true);
}

Result<GgufSummary> check_gguf_bytes(std::span<const uint8_t> bytes, const std::string& name) {
    const auto source = memory_gguf_source(bytes);
    return check(*source, name, false);
}

} // namespace attnscope::gguf
