// Hyperparameters: what llama.cpp's load_hparams() asserts, and what its graphs divide by.
#include "gguf/gguf_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace attnscope::gguf {
namespace {

constexpr uint32_t max_layers = 512;   // LLAMA_MAX_LAYERS
constexpr uint32_t max_experts = 1024; // LLAMA_MAX_EXPERTS
constexpr uint32_t max_size = 1u << 24;

Result<void> check_sizes(GgufCheck& c) {
    const auto n_layer = c.required_u32("block_count", max_layers);
    if (!n_layer) return n_layer.error();
    c.n_layer_all = int32_t(*n_layer);
    const auto mtp = c.u32("nextn_predict_layers", 0, max_layers);
    if (!mtp) return mtp.error();
    if (*mtp >= *n_layer) {
        return c.damaged(fmt::format("has {} layers, of which {} ({}) are said to predict further tokens", *n_layer,
                                     *mtp, c.key_name("nextn_predict_layers")));
    }
    const auto n_ctx = c.required_u32("context_length", INT32_MAX);
    if (!n_ctx) return n_ctx.error();
    const auto n_embd = c.required_u32("embedding_length", max_size);
    if (!n_embd) return n_embd.error();
    c.summary.n_layer = int32_t(*n_layer - *mtp);
    c.summary.n_ctx_train = int32_t(*n_ctx);
    c.summary.n_embd = int32_t(*n_embd);
    return {};
}

Result<void> check_head_sizes(const GgufCheck& c, uint32_t n_head) {
    const uint32_t n_embd = uint32_t(c.summary.n_embd);
    const bool divides = n_embd % n_head == 0;
    if (!divides && (c.find("attention.key_length") == nullptr || c.find("attention.value_length") == nullptr)) {
        return c.damaged(fmt::format("has {} heads ({}), which do not divide the embedding length {}", n_head,
                                     c.key_name("attention.head_count"), n_embd));
    }
    const auto k = c.u32("attention.key_length", n_embd / n_head, max_size);
    if (!k) return k.error();
    const auto v = c.u32("attention.value_length", n_embd / n_head, max_size);
    if (!v) return v.error();
    const auto rot = c.u32("rope.dimension_count", *k, max_size);
    if (!rot) return rot.error();
    if (*k == 0 || *v == 0) {
        return c.damaged(fmt::format("has heads of {} elements in K and {} in V ({}, {})", *k, *v,
                                     c.key_name("attention.key_length"), c.key_name("attention.value_length")));
    }
    if (c.arch->equal_heads && *k != *v) {
        return c.damaged(fmt::format("has heads of {} elements in K and {} in V; in architecture {} they are equal", *k,
                                     *v, c.arch->name));
    }
    if (c.arch->heads_fill_embd && uint64_t(n_head) * *k != n_embd) {
        return c.damaged(
            fmt::format("has {} heads of {} elements ({}); in architecture {} they make up the embedding length {}",
                        n_head, *k, c.key_name("attention.head_count"), c.arch->name, n_embd));
    }
    const bool no_rope = *rot == 0 && c.find("rope.dimension_count") != nullptr;
    if (no_rope || *rot % 2 != 0 || *rot > *k || (c.arch->rope_whole_head && *rot != *k)) {
        return c.damaged(fmt::format("has a key {} of {}, which does not fit heads of {} elements",
                                     c.key_name("rope.dimension_count"), *rot, *k));
    }
    return {};
}

// Multi-head latent attention: one latent key, of which RoPE turns a part.
Result<void> check_latent(const GgufCheck& c, const std::vector<uint32_t>& kv_heads) {
    const GgufKey* rank_key = c.find("attention.kv_lora_rank");
    if (rank_key == nullptr || !c.arch->latent) return {};
    const auto rank = c.u32("attention.kv_lora_rank", 0, max_size), k = c.u32("attention.key_length", 0, max_size),
               v = c.u32("attention.value_length", 0, max_size), rot = c.u32("rope.dimension_count", 0, max_size),
               k_mla = c.u32("attention.key_length_mla", 0, max_size),
               v_mla = c.u32("attention.value_length_mla", 0, max_size);
    for (const auto* value : {&rank, &k, &v, &rot, &k_mla, &v_mla}) {
        if (!*value) return value->error();
    }
    const bool absorbed = *k_mla > 0 || *v_mla > 0;
    const uint32_t head = absorbed ? *k_mla : *k;
    if (*rank == 0 && !absorbed) return {}; // written where a model has none
    if (*rank == 0 || *rot == 0 || head < *rot + uint32_t(absorbed) || (absorbed && *v_mla == 0)) {
        return c.damaged(
            fmt::format("has latent attention of impossible sizes: rank {}, heads of {}, of which RoPE turns {} ({})",
                        *rank, head, *rot, rank_key->name));
    }
    if (!absorbed) return {};
    if (*k != *rank + *rot || *v != *rank) {
        return c.damaged(
            fmt::format("has latent attention with keys of {} and values of {} elements; {} and {} are expected ({})",
                        *k, *v, *rank + *rot, *rank, c.key_name("attention.key_length")));
    }
    for (const uint32_t n : kv_heads) {
        if (n > 1) return c.damaged(fmt::format("has latent attention with {} KV heads; it has 1", n));
    }
    return {};
}

// Where an architecture has sliding windows, at least one layer must have one.
Result<void> check_windows(const GgufCheck& c) {
    const auto window = c.u32("attention.sliding_window", 1, INT32_MAX);
    if (!window) return window.error();
    const GgufKey* pattern = c.find("attention.sliding_window_pattern");
    if (!c.arch->windows || pattern == nullptr || *window == 0) return {};
    bool any = pattern->type != GgufType::array && pattern->u32() != 1u;
    if (pattern->type == GgufType::array) {
        for (const uint32_t flag : read_gguf_u32s(c.source, *pattern, max_layers)) any = any || flag != 0;
    }
    if (!any) return c.damaged(fmt::format("has sliding windows, but no layer to use them ({})", pattern->name));
    return {};
}

Result<void> check_heads(GgufCheck& c) {
    const auto heads = c.per_layer("attention.head_count", 65536);
    if (!heads) return heads.error();
    const auto given_kv = c.per_layer("attention.head_count_kv", 65536);
    if (!given_kv) return given_kv.error();
    const std::vector<uint32_t>& kv = given_kv->empty() ? *heads : *given_kv;
    c.summary.n_head = heads->empty() ? 0 : int32_t(*std::max_element(heads->begin(), heads->end()));
    c.summary.n_head_kv = kv.empty() ? 0 : int32_t(*std::max_element(kv.begin(), kv.end()));
    if (c.arch->kind == ArchKind::recurrent || c.arch->kind == ArchKind::audio || c.arch->kind == ArchKind::projector) {
        c.summary.has_attention = c.arch->kind != ArchKind::recurrent;
        return {};
    }
    if (heads->empty()) return c.damaged(fmt::format("has no key {}", c.key_name("attention.head_count")));
    if (c.summary.n_head == 0) {
        return c.damaged(fmt::format("has a key {} of 0: no layer has a head", c.key_name("attention.head_count")));
    }
    for (size_t i = 0; i < heads->size() && i < kv.size(); ++i) {
        const uint32_t n = (*heads)[i];
        if (kv[i] == 0) continue; // a recurrent layer
        if (n % kv[i] != 0 || n == 0) {
            return c.damaged(fmt::format("has {} query heads and {} KV heads in layer {}, which do not divide ({})", n,
                                         kv[i], i, c.key_name("attention.head_count_kv")));
        }
    }
    if (auto r = check_latent(c, kv); !r) return r;
    return heads->front() > 0 ? check_head_sizes(c, heads->front()) : Result<void>();
}

Result<void> check_experts(const GgufCheck& c) {
    const auto n = c.u32("expert_count", 0, max_experts);
    if (!n) return n.error();
    const auto used_by_layer = c.per_layer("expert_used_count", max_experts);
    if (!used_by_layer) return used_by_layer.error();
    const uint32_t used = used_by_layer->empty() ? 0 : *std::max_element(used_by_layer->begin(), used_by_layer->end());
    const auto groups = c.u32("expert_group_count", 0, max_experts);
    if (!groups) return groups.error();
    const auto groups_used = c.u32("expert_group_used_count", 0, max_experts);
    if (!groups_used) return groups_used.error();
    if (used > *n || (*n > 0 && used == 0)) {
        return c.damaged(fmt::format("uses {} of {} experts ({}, {})", used, *n, c.key_name("expert_used_count"),
                                     c.key_name("expert_count")));
    }
    const bool grouped = *groups > 1;
    if (*groups > 0 &&
        (*groups >= *n || (grouped && (*n % *groups != 0 || *groups_used == 0 || *groups_used >= *groups)))) {
        return c.damaged(fmt::format("has {} experts in {} groups, of which {} are used ({})", *n, *groups,
                                     *groups_used, c.key_name("expert_group_count")));
    }
    return {};
}

// Floats that kernels assert about must be as they want them. Others may be anything: llama.cpp itself writes -inf for limits that
// are none, and -1 for what is not known.
Result<void> check_floats(const GgufCheck& c) {
    const std::string prefix = c.key_name("");
    for (const GgufKey& key : c.file.keys) {
        const auto value = key.f32();
        if (!value || !key.name.starts_with(prefix)) continue;
        const bool not_negative = key.name.ends_with("_epsilon");
        const bool positive = key.name.ends_with(".freq_base");
        const bool finite = std::isfinite(*value);
        if ((not_negative && !(finite && *value >= 0)) || (positive && !(finite && *value > 0))) {
            return c.damaged(fmt::format("has a key {} of {}", key.name, *value));
        }
    }
    return {};
}

Result<void> check_rope(const GgufCheck& c) {
    const GgufKey* key = c.find("rope.scaling.type");
    if (key == nullptr) return {};
    constexpr std::string_view known[] = {"none", "linear", "yarn", "longrope"};
    if (key->type != GgufType::string || std::find(std::begin(known), std::end(known), key->text) == std::end(known)) {
        return c.unsupported(fmt::format("has a key {} that llama.cpp does not know", key->name));
    }
    return {};
}

Result<void> check_recurrent_parts(const GgufCheck& c) {
    constexpr const char* sizes[] = {"ssm.conv_kernel",    "ssm.inner_size",    "ssm.state_size",
                                     "ssm.time_step_rank", "shortconv.l_cache", "wkv.head_size"};
    for (const char* name : sizes) {
        const auto value = c.u32(name, 1, max_size);
        if (!value) return value.error();
        // llama.cpp's own files hold a 0 where an architecture has no such part. (A group count of 0 it takes for 1.)
        if (*value == 0 && c.arch->recurrent_sizes.find(name) != std::string_view::npos) {
            return c.damaged(fmt::format("has a key {} of 0", c.key_name(name)));
        }
    }
    const auto inner = c.u32("ssm.inner_size", 0, max_size);
    const auto groups = c.u32("ssm.group_count", 0, max_size);
    const auto state = c.u32("ssm.state_size", 0, max_size);
    if (!inner || !groups || !state) return c.damaged("has recurrent layers of impossible sizes");
    if (*groups > 0 && *inner % *groups != 0) {
        return c.damaged(fmt::format("has {} elements in its recurrent layers, which {} groups do not divide ({})",
                                     *inner, *groups, c.key_name("ssm.group_count")));
    }
    const bool doubles = c.arch->name == "jamba" || c.arch->name == "granitehybrid";
    if (doubles && *inner != 2 * uint32_t(c.summary.n_embd)) {
        return c.damaged(fmt::format("has a key {} of {}; in architecture {} it is twice the embedding length {}",
                                     c.key_name("ssm.inner_size"), *inner, c.arch->name, c.summary.n_embd));
    }
    return {};
}

// HRM-Text: two stacks of layers, gone through in cycles; the block count is that of all passes.
Result<void> check_cycles(const GgufCheck& c) {
    if (c.arch->name != "hrm_text") return {};
    const auto layers = c.required_u32("hrm.layers_per_stack", max_layers),
               high = c.required_u32("hrm.h_cycles", max_layers), low = c.required_u32("hrm.l_cycles", max_layers);
    for (const auto* value : {&layers, &high, &low}) {
        if (!*value) return value->error();
    }
    if (uint64_t(*layers) * *high * (*low + 1) != uint64_t(c.summary.n_layer)) {
        return c.damaged(fmt::format("goes {} times {} times through {} layers ({}), which are not the {} of {}", *high,
                                     *low + 1, *layers, c.key_name("hrm.h_cycles"), c.summary.n_layer,
                                     c.key_name("block_count")));
    }
    return {};
}

// T5: llama.cpp's cache has a layer for each of the encoder's, and its logarithms of distances want some buckets, but not as many
// as the 128 positions that they reach.
Result<void> check_t5(const GgufCheck& c) {
    if (c.arch->name != "t5" && c.arch->name != "t5encoder") return {};
    const auto layers = c.u32("decoder_block_count", uint32_t(c.summary.n_layer), uint32_t(c.summary.n_layer));
    if (!layers) return layers.error();
    if (*layers == 0) return c.damaged(fmt::format("has a key {} of 0", c.key_name("decoder_block_count")));
    constexpr uint32_t fewest = 4, most = 255;
    const auto buckets = c.required_u32("attention.relative_buckets_count", most);
    if (!buckets) return buckets.error();
    if (*buckets < fewest) {
        return c.damaged(fmt::format("has a key {} of {}; at least {} must be",
                                     c.key_name("attention.relative_buckets_count"), *buckets, fewest));
    }
    return {};
}

} // namespace

Error GgufCheck::damaged(const std::string& what) const {
    return {ErrorKind::damaged, fmt::format("{} {}", file.path, what)};
}

Error GgufCheck::unsupported(const std::string& what) const {
    return {ErrorKind::unsupported, fmt::format("{} {}", file.path, what)};
}

std::string GgufCheck::key_name(const char* name) const {
    return fmt::format("{}.{}", arch->name, name);
}

Result<uint32_t> GgufCheck::u32(const char* name, uint32_t otherwise, uint32_t high) const {
    const GgufKey* key = find(name);
    if (key == nullptr) return otherwise;
    const auto value = key->u32();
    if (!value) {
        return damaged(
            fmt::format("has a key {} of type {}; it must be uint32", key->name, gguf_value_type_name(key->type)));
    }
    if (*value > high) return damaged(fmt::format("has a key {} of {}; at most {} can be", key->name, *value, high));
    return *value;
}

Result<uint32_t> GgufCheck::required_u32(const char* name, uint32_t high) const {
    if (find(name) == nullptr) return damaged(fmt::format("has no key {}", key_name(name)));
    auto value = u32(name, 0, high);
    if (value && *value == 0) return damaged(fmt::format("has a key {} of 0", key_name(name)));
    return value;
}

Result<std::vector<uint32_t>> GgufCheck::per_layer(const char* name, uint32_t high) const {
    const GgufKey* key = find(name);
    if (key == nullptr) return std::vector<uint32_t>();
    if (key->type != GgufType::array) {
        const auto value = u32(name, 0, high);
        if (!value) return value.error();
        return std::vector<uint32_t>(size_t(n_layer_all), *value);
    }
    const auto values = read_gguf_u32s(source, *key, max_layers);
    if (values.size() != size_t(n_layer_all) || (key->element != GgufType::uint32 && key->element != GgufType::int32)) {
        return damaged(fmt::format("has a key {} with {} elements of type {}; the model has {} layers", key->name,
                                   key->count, gguf_value_type_name(key->element), n_layer_all));
    }
    for (size_t i = 0; i < values.size(); ++i) {
        if (values[i] > high)
            return damaged(fmt::format("has {} at layer {} of key {}", int32_t(values[i]), i, key->name));
    }
    return values;
}

Result<void> check_hyperparameters(GgufCheck& c) {
    if (auto r = check_sizes(c); !r) return r;
    if (auto r = check_heads(c); !r) return r;
    if (auto r = check_windows(c); !r) return r;
    if (auto r = check_cycles(c); !r) return r;
    if (auto r = check_t5(c); !r) return r;
    if (auto r = check_experts(c); !r) return r;
    if (auto r = check_floats(c); !r) return r;
    if (auto r = check_rope(c); !r) return r;
    return check_recurrent_parts(c);
}

} // namespace attnscope::gguf
