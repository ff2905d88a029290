#include "gguf/gguf_architectures.h"

namespace attnscope::gguf {
namespace {

constexpr Architecture table[] = {
#include "gguf/gguf_architectures.inc"
};

} // namespace

std::span<const Architecture> architectures() {
    return table;
}

const Architecture* find_architecture(std::string_view name) {
    for (const Architecture& arch : table) {
        if (arch.name == name) return &arch;
    }
    return nullptr;
}

std::string_view no_text_reason(ArchKind kind) {
    switch (kind) {
    case ArchKind::text:
    case ArchKind::recurrent: return "";
    case ArchKind::diffusion: return "it fills in masked tokens (diffusion) instead of writing one after the other";
    case ArchKind::embedding: return "it turns text into embeddings";
    case ArchKind::encoder_decoder: return "it is an encoder-decoder, whose encoder has to read the text first";
    case ArchKind::projector: return "it is the projector of a multimodal model (an mmproj file)";
    case ArchKind::audio: return "it is part of a speech pipeline";
    case ArchKind::draft: return "it is a draft model, which only guesses ahead for another one";
    }
    return "";
}

} // namespace attnscope::gguf
