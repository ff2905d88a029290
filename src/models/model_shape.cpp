// Shapes: presets, defaults, and what each architecture can be.
#include "models/model_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace attnscope::models {
namespace {

struct ArchRule {
    std::string_view name;
    bool embd_is_heads; // n_embd must be n_head * head_dim
    bool always_tied;
    bool encoder = false; // reads a text at once
};

constexpr std::array rules = {
    ArchRule{"llama", false, false},     ArchRule{"qwen2", true, false},
    ArchRule{"gemma2", false, true},     ArchRule{"gemma3", false, false},
    ArchRule{"bloom", true, false},      ArchRule{"mpt", true, false},
    ArchRule{"gpt-oss", false, false},   ArchRule{"grok", true, false},
    ArchRule{"deepseek2", false, false}, ArchRule{"lfm2", true, false},
    ArchRule{"falcon-h1", false, false}, ArchRule{"granitehybrid", false, false},
    ArchRule{"bert", true, true, true},  ArchRule{"t5encoder", true, true, true},
    ArchRule{"t5", false, false, true},  ArchRule{"deepseek32", false, false},
};

const ArchRule* rule_of(std::string_view arch) {
    const auto it = std::find_if(rules.begin(), rules.end(), [&](const ArchRule& r) { return r.name == arch; });
    return it == rules.end() ? nullptr : &*it;
}

template <typename Names> std::string joined(const Names& names) {
    std::string text;
    for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
    return text;
}

Error refuse(const std::string& sentence) {
    return {ErrorKind::invalid_argument, sentence};
}

Result<void> check_numbers(const ModelShape& s) {
    struct Bound {
        const char* option;
        int64_t value, low, high;
    };
    const Bound bounds[] = {
        {"--layers", s.n_layer, 1, 512},      {"--heads", s.n_head, 1, 512},
        {"--kv-heads", s.n_head_kv, 1, 512},  {"--head-dim", s.head_dim, 2, 1024},
        {"--embd", s.n_embd, 2, 65536},       {"--ff", s.n_ff, 2, 1 << 20},
        {"--ctx", s.n_ctx_train, 1, 1 << 30}, {"--vocab-size", s.n_vocab, 0, 1 << 21},
        {"--window", s.window, 1, 1 << 30},   {"--window-pattern", s.window_pattern, 1, 512},
        {"--experts", s.n_expert, 2, 256},
    };
    for (const Bound& b : bounds) {
        if (b.value < b.low || b.value > b.high) {
            return refuse(fmt::format("{} is {}; it must be from {} to {}", b.option, b.value, b.low, b.high));
        }
    }
    if (s.head_dim % 2 != 0) return refuse(fmt::format("--head-dim is {}; it must be even", s.head_dim));
    if (s.n_head % s.n_head_kv != 0) {
        return refuse(fmt::format("--kv-heads {} does not divide --heads {}", s.n_head_kv, s.n_head));
    }
    if (!(s.softcap > 0)) return refuse("--softcap must be positive");
    return {};
}

} // namespace

std::vector<std::string_view> made_architectures() {
    std::vector<std::string_view> names;
    for (const ArchRule& rule : rules) names.push_back(rule.name);
    return names;
}

std::vector<std::string_view> made_text_architectures() {
    std::vector<std::string_view> names;
    for (const ArchRule& rule : rules) {
        if (!rule.encoder) names.push_back(rule.name);
    }
    return names;
}

std::vector<std::string_view> made_encoders() {
    std::vector<std::string_view> names;
    for (const ArchRule& rule : rules) {
        if (rule.encoder) names.push_back(rule.name);
    }
    return names;
}

std::vector<std::string_view> shape_presets() {
    return {"qwen2.5-vl-7b", "qwen2.5-0.5b"};
}

Result<ModelShape> preset_shape(std::string_view name) {
    ModelShape s;
    s.arch = "qwen2";
    s.vocab = "qwen2";
    s.type = WeightType::q8_0;
    s.n_ctx_train = 32768;
    s.name = name;
    if (name == "qwen2.5-vl-7b") {
        s.n_layer = 28;
        s.n_head = 28;
        s.n_head_kv = 4;
        s.head_dim = 128;
        s.n_embd = 3584;
        s.n_ff = 18944;
        s.n_vocab = 152064;
        s.n_ctx_train = 128000;
        return s;
    }
    if (name == "qwen2.5-0.5b") {
        s.n_layer = 24;
        s.n_head = 14;
        s.n_head_kv = 2;
        s.head_dim = 64;
        s.n_embd = 896;
        s.n_ff = 4864;
        s.tied = true;
        return s;
    }
    return refuse(fmt::format("there is no preset {} (there are: {})", name, joined(shape_presets())));
}

Result<ModelShape> complete_shape(const ModelShape& shape) {
    ModelShape s = shape;
    const ArchRule* rule = rule_of(s.arch);
    if (rule == nullptr) {
        return refuse(
            fmt::format("models of architecture {} cannot be made (can: {})", s.arch, joined(made_architectures())));
    }
    if (s.n_head_kv == 0 || s.arch == "t5encoder" || s.arch == "t5") s.n_head_kv = s.n_head; // T5 has no grouped heads
    if (s.n_embd == 0) s.n_embd = s.n_head * s.head_dim;
    if (s.n_ff == 0) s.n_ff = s.n_embd;
    if (s.window == 0) s.window = 16;
    if (s.window_pattern == 0) s.window_pattern = 2;
    if (s.softcap == 0.0f) s.softcap = 6.0f;
    if (rule->always_tied) s.tied = true;
    if (auto r = check_numbers(s); !r) return r.error();
    if (rule->embd_is_heads && s.n_embd != s.n_head * s.head_dim) {
        return refuse(fmt::format("--embd is {}; with --arch {} it must be --heads times --head-dim, {}", s.n_embd,
                                  s.arch, s.n_head * s.head_dim));
    }
    if (s.name.empty()) {
        s.name =
            fmt::format("made {} {} layers {}x{} heads of {}", s.arch, s.n_layer, s.n_head, s.n_head_kv, s.head_dim);
    }
    return s;
}

} // namespace attnscope::models
