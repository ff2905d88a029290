// Tensors against keys: layers that are there, the embedding's shape, types that kernels take.
#include "gguf/gguf_rules.h"

#include <fmt/format.h>
#include <ggml.h>

#include <charconv>

namespace attnscope::gguf {
namespace {

// The layer of "blk.<n>.<rest>"; -1 for tensors outside the layers, -2 for a number that is none.
int32_t layer_of(std::string_view name) {
    if (!name.starts_with("blk.")) return -1;
    int32_t layer = 0;
    const char* begin = name.data() + 4;
    const auto [end, error] = std::from_chars(begin, name.data() + name.size(), layer);
    return error != std::errc() || end == begin || layer < 0 || *end != '.' ? -2 : layer;
}

// Added or multiplied elementwise, or read by kernels of recurrent layers: float32 or an abort.
bool must_be_f32(const GgufTensor& t) {
    if (t.n_dims == 1 || t.name.ends_with(".bias") || t.name.ends_with("_norm.weight")) return true;
    if (t.name == "token_types.weight") return true; // its first row is added to every token
    return t.name.ends_with(".ssm_a") || t.name.ends_with(".ssm_d") || t.name.ends_with(".ssm_conv1d.weight") ||
           t.name.ends_with(".shortconv.conv.weight");
}

bool multipliable(int32_t type) {
    switch (ggml_type(type)) {
    case GGML_TYPE_I8:
    case GGML_TYPE_I16:
    case GGML_TYPE_I32:
    case GGML_TYPE_I64:
    case GGML_TYPE_F64:
    case GGML_TYPE_Q8_1:
    case GGML_TYPE_Q8_K: return false; // of activations, indices and tables
    default: return true;
    }
}

Result<void> check_type(const GgufCheck& c, const GgufTensor& t) {
    const bool table = t.name.ends_with("tid2eid.weight") || t.name.ends_with("tid2eid") || t.name == "d2t";
    if (table) return {};
    const bool wrong = must_be_f32(t) ? t.type != GGML_TYPE_F32 : !multipliable(t.type);
    if (wrong) {
        return c.damaged(fmt::format("has a tensor {} of type {}, which llama.cpp cannot compute with{}", t.name,
                                     ggml_type_name(ggml_type(t.type)), must_be_f32(t) ? "; it must be f32" : ""));
    }
    return {};
}

} // namespace

Result<void> check_tensors(const GgufCheck& c, std::span<const GgufTensor> tensors) {
    const bool language = c.arch->kind != ArchKind::projector && c.arch->kind != ArchKind::audio;
    std::vector<bool> seen(size_t(c.n_layer_all), false);
    const GgufTensor* embedding = nullptr;
    for (const GgufTensor& t : tensors) {
        if (!language) continue;
        if (auto r = check_type(c, t); !r) return r;
        if (t.name == "token_embd.weight") embedding = &t;
        const int32_t layer = layer_of(t.name);
        if (layer == -2 || layer >= c.n_layer_all) {
            return c.damaged(fmt::format("has a tensor {}, but only {} layers ({})", t.name, c.n_layer_all,
                                         c.key_name("block_count")));
        }
        if (layer >= 0) seen[size_t(layer)] = true;
    }
    // Draft models lack layers, and T5's are named by encoder and decoder: llama.cpp says which tensor is missing. HRM-Text goes
    // through fewer layers than it counts, several times.
    const bool t5 = c.arch->name == "t5" || c.arch->name == "t5encoder";
    if (!language || c.arch->kind == ArchKind::draft) return {};
    const bool all_stored = !t5 && c.arch->name != "hrm_text";
    for (int32_t i = 0; all_stored && i < c.summary.n_layer; ++i) {
        if (!seen[size_t(i)]) {
            return c.damaged(fmt::format("has no tensors for layer {} of {} (blk.{}.*)", i, c.summary.n_layer, i));
        }
    }
    if (embedding == nullptr) return c.damaged("has no tensor token_embd.weight");
    if (embedding->ne[0] != c.summary.n_embd || embedding->ne[1] != c.summary.n_vocab || embedding->ne[2] != 1) {
        return c.damaged(
            fmt::format("has a tensor token_embd.weight of {} x {}; {} elements for {} tokens are expected",
                        embedding->ne[0], embedding->ne[1], c.summary.n_embd, c.summary.n_vocab));
    }
    return {};
}

} // namespace attnscope::gguf
