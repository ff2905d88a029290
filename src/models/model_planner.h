// Building blocks of planned models: keys, norms, attention, feed-forward, recurrent parts. Internal to
// model_plan.cpp.
//
// Scales are chosen so that a model with random weights behaves like a model: activations stay finite over
// any number of layers, scores have a standard deviation of about 2 (rows are neither flat nor one spike),
// and the last token does not simply predict itself.
#pragma once

#include "models/model_plan.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <cmath>

namespace attnscope::models {

inline constexpr float score_gain = 1.5f; // of q and of k each
inline constexpr float logit_gain = 3.0f;

class Planner {
public:
    explicit Planner(const ModelShape& shape) : s(shape) {
        plan.keys.reset(gguf_init_empty());
        scaled_embedding_ = s.arch == "gemma2" || s.arch == "gemma3"; // multiplied by sqrt(n_embd) in the graph
        stream_ = s.tied && !scaled_embedding_ ? 1.0f / std::sqrt(float(s.n_embd)) : 1.0f;
    }

    const ModelShape& s;
    ModelPlan plan;

    // ---- keys
    std::string key(const char* name) const { return fmt::format("{}.{}", s.arch, name); }
    void u32(const char* name, int64_t value) { gguf_set_val_u32(keys(), key(name).c_str(), uint32_t(value)); }
    void f32(const char* name, float value) { gguf_set_val_f32(keys(), key(name).c_str(), value); }
    void i32_array(const char* name, const std::vector<int32_t>& values) {
        gguf_set_arr_data(keys(), key(name).c_str(), GGUF_TYPE_INT32, values.data(), values.size());
    }
    gguf_context* keys() const { return plan.keys.get(); }

    // ---- tensors
    ggml_type matrix_type(int64_t row) const {
        switch (s.type) {
        case WeightType::f32: return GGML_TYPE_F32;
        case WeightType::f16: return GGML_TYPE_F16;
        case WeightType::q8_0: return row % 32 == 0 ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
        case WeightType::q4_0: return row % 32 == 0 ? GGML_TYPE_Q4_0 : GGML_TYPE_F16;
        }
        return GGML_TYPE_F32;
    }
    // Keeps the size of what goes through it when gain is 1.
    void matrix(const std::string& name, std::vector<int64_t> ne, float gain = 1.0f) {
        const float deviation = gain / std::sqrt(float(ne[0]));
        const ggml_type type = matrix_type(ne[0]);
        plan.tensors.push_back({name + ".weight", std::move(ne), type, 0, deviation});
    }
    void vector(const std::string& name, int64_t n, float mean, float deviation, bool random_sign = false) {
        plan.tensors.push_back({name, {n}, GGML_TYPE_F32, mean, deviation, random_sign});
    }
    void norm(const std::string& name, int64_t n, float gain = 1.0f) { vector(name + ".weight", n, gain, 0.1f * gain); }
    void bias(const std::string& name, int64_t n, float deviation = 0.1f) { vector(name + ".bias", n, 0, deviation); }
    void f32_tensor(const std::string& name, std::vector<int64_t> ne, float mean, float deviation) {
        plan.tensors.push_back({name, std::move(ne), GGML_TYPE_F32, mean, deviation});
    }
    static std::string block(int32_t i, const char* name) { return fmt::format("blk.{}.{}", i, name); }

    // How much of a branch is added to the residual stream.
    float branch_gain() const { return std::min(0.7f, 1.2f / std::sqrt(float(s.n_layer))) * stream_; }
    int64_t n_q() const { return int64_t(s.n_head) * s.head_dim; }
    int64_t n_kv() const { return int64_t(s.n_head_kv) * s.head_dim; }

    void common_keys(bool layer_norm = false, const std::vector<int32_t>& kv_heads = {}) {
        gguf_set_val_str(keys(), "general.architecture", s.arch.c_str());
        gguf_set_val_str(keys(), "general.type", "model");
        gguf_set_val_str(keys(), "general.name", s.name.c_str());
        gguf_set_val_u32(keys(), "general.quantization_version", 2);
        const uint32_t file_types[] = {LLAMA_FTYPE_ALL_F32, LLAMA_FTYPE_MOSTLY_F16, LLAMA_FTYPE_MOSTLY_Q8_0,
                                       LLAMA_FTYPE_MOSTLY_Q4_0};
        gguf_set_val_u32(keys(), "general.file_type", file_types[size_t(s.type)]);
        u32("context_length", s.n_ctx_train);
        u32("embedding_length", s.n_embd);
        u32("block_count", s.n_layer);
        u32("feed_forward_length", s.n_ff);
        u32("attention.head_count", s.n_head);
        if (kv_heads.empty())
            u32("attention.head_count_kv", s.n_head_kv);
        else
            i32_array("attention.head_count_kv", kv_heads);
        u32("attention.key_length", s.head_dim);
        u32("attention.value_length", s.head_dim);
        f32(layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-6f);
    }
    void rope_keys(int64_t n_rot, float base = 10000.0f) {
        u32("rope.dimension_count", n_rot);
        f32("rope.freq_base", base);
    }
    void window_keys() {
        u32("attention.sliding_window", s.window);
        u32("attention.sliding_window_pattern", s.window_pattern);
    }
    void embeddings(const char* output_norm = "output_norm", bool norm_bias = false) {
        const float size = scaled_embedding_ ? 1.0f / std::sqrt(float(s.n_embd)) : stream_;
        matrix("token_embd", {s.n_embd, s.n_vocab}, size * std::sqrt(float(s.n_embd)));
        // A tied output would score each token's own embedding highest; signs at random in the norm prevent
        // it.
        if (s.tied)
            vector(fmt::format("{}.weight", output_norm), s.n_embd, logit_gain, 0.3f, true);
        else
            norm(output_norm, s.n_embd);
        if (norm_bias) bias(output_norm, s.n_embd);
        if (!s.tied) matrix("output", {s.n_embd, s.n_vocab}, logit_gain);
    }
    void layer_norms(int32_t i, bool with_bias) {
        for (const char* name : {"attn_norm", "ffn_norm"}) {
            norm(block(i, name), s.n_embd);
            if (with_bias) bias(block(i, name), s.n_embd);
        }
    }
    void attention(int32_t i, bool qkv_bias, bool qk_norm, bool out_bias = false) {
        matrix(block(i, "attn_q"), {s.n_embd, n_q()}, score_gain);
        matrix(block(i, "attn_k"), {s.n_embd, n_kv()}, score_gain);
        matrix(block(i, "attn_v"), {s.n_embd, n_kv()});
        if (qkv_bias) {
            bias(block(i, "attn_q"), n_q(), 0.3f);
            bias(block(i, "attn_k"), n_kv(), 0.3f);
            bias(block(i, "attn_v"), n_kv());
        }
        if (qk_norm) {
            norm(block(i, "attn_q_norm"), s.head_dim, score_gain);
            norm(block(i, "attn_k_norm"), s.head_dim, score_gain);
        }
        matrix(block(i, "attn_output"), {n_q(), s.n_embd}, branch_gain());
        if (out_bias) bias(block(i, "attn_output"), s.n_embd, 0.05f);
    }
    void fused_attention(int32_t i, bool with_bias) {
        const int64_t n = n_q() + 2 * n_kv();
        matrix(block(i, "attn_qkv"), {s.n_embd, n}, score_gain);
        if (with_bias) bias(block(i, "attn_qkv"), n);
        matrix(block(i, "attn_output"), {n_q(), s.n_embd}, branch_gain());
        if (with_bias) bias(block(i, "attn_output"), s.n_embd, 0.05f);
    }
    void feed_forward(int32_t i, bool gated = true, bool with_bias = false) {
        if (gated) matrix(block(i, "ffn_gate"), {s.n_embd, s.n_ff});
        matrix(block(i, "ffn_up"), {s.n_embd, s.n_ff});
        if (with_bias) bias(block(i, "ffn_up"), s.n_ff);
        matrix(block(i, "ffn_down"), {s.n_ff, s.n_embd}, 1.5f * branch_gain());
        if (with_bias) bias(block(i, "ffn_down"), s.n_embd, 0.05f);
    }
    void expert_keys() {
        u32("expert_count", s.n_expert);
        u32("expert_used_count", 2);
        u32("expert_feed_forward_length", s.n_ff);
    }
    void experts(int32_t i, bool with_bias) {
        f32_tensor(block(i, "ffn_gate_inp.weight"), {s.n_embd, s.n_expert}, 0, 1.0f / std::sqrt(float(s.n_embd)));
        matrix(block(i, "ffn_gate_exps"), {s.n_embd, s.n_ff, s.n_expert});
        matrix(block(i, "ffn_up_exps"), {s.n_embd, s.n_ff, s.n_expert});
        matrix(block(i, "ffn_down_exps"), {s.n_ff, s.n_embd, s.n_expert}, branch_gain());
        if (!with_bias) return;
        bias(block(i, "ffn_gate_inp"), s.n_expert);
        f32_tensor(block(i, "ffn_gate_exps.bias"), {s.n_ff, s.n_expert}, 0, 0.1f);
        f32_tensor(block(i, "ffn_up_exps.bias"), {s.n_ff, s.n_expert}, 0, 0.1f);
        f32_tensor(block(i, "ffn_down_exps.bias"), {s.n_embd, s.n_expert}, 0, 0.05f);
    }

    // ---- recurrent layers
    static constexpr int32_t ssm_conv = 4, ssm_state = 16, ssm_groups = 1;
    int32_t ssm_inner() const { return 2 * s.n_embd; }
    int32_t ssm_heads() const { return ssm_inner() / s.head_dim; }
    void mamba2_keys() {
        u32("ssm.conv_kernel", ssm_conv);
        u32("ssm.inner_size", ssm_inner());
        u32("ssm.state_size", ssm_state);
        u32("ssm.time_step_rank", ssm_heads());
        u32("ssm.group_count", ssm_groups);
    }
    void mamba2(int32_t i) {
        const int64_t inner = ssm_inner(), heads = ssm_heads(), mixed = inner + 2 * ssm_groups * ssm_state;
        matrix(block(i, "ssm_in"), {s.n_embd, inner + mixed + heads});
        f32_tensor(block(i, "ssm_conv1d.weight"), {ssm_conv, mixed}, 0, 0.5f);
        bias(block(i, "ssm_conv1d"), mixed);
        bias(block(i, "ssm_dt"), heads, 0.5f);
        f32_tensor(block(i, "ssm_a"), {1, heads}, -1.0f, 0.3f); // negative: the state decays
        f32_tensor(block(i, "ssm_d"), {1, heads}, 1.0f, 0.1f);
        f32_tensor(block(i, "ssm_norm.weight"), {inner / ssm_groups, ssm_groups}, 1.0f, 0.1f);
        matrix(block(i, "ssm_out"), {inner, s.n_embd}, branch_gain());
    }
    // Every second layer of a hybrid attends; the others have no KV heads, which is how llama.cpp knows them.
    static bool attends(int32_t i) { return i % 2 == 1; }
    std::vector<int32_t> hybrid_kv_heads() const {
        std::vector<int32_t> heads;
        for (int32_t i = 0; i < s.n_layer; ++i) heads.push_back(attends(i) ? s.n_head_kv : 0);
        return heads;
    }

private:
    bool scaled_embedding_ = false;
    float stream_ = 1.0f; // size of the residual stream's elements
};

} // namespace attnscope::models
