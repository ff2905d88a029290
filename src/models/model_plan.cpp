// Keys and tensors of each architecture, as llama.cpp's src/models/<arch>.cpp reads them.
#include "models/model_planner.h"

namespace attnscope::models {
namespace {

void plan_llama(Planner& p) {
    p.common_keys();
    p.rope_keys(p.s.head_dim);
    p.embeddings();
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.layer_norms(i, false);
        p.attention(i, p.s.arch == "qwen2", false);
        p.feed_forward(i);
    }
}

void plan_gemma(Planner& p) {
    const bool third = p.s.arch == "gemma3";
    p.common_keys();
    p.rope_keys(p.s.head_dim, third ? 1000000.0f : 10000.0f);
    p.window_keys();
    if (!third) {
        p.f32("attn_logit_softcapping", p.s.softcap);
        p.f32("final_logit_softcapping", 30.0f);
    }
    p.embeddings();
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.layer_norms(i, false);
        p.attention(i, false, third);
        p.norm(Planner::block(i, "post_attention_norm"), p.s.n_embd, p.branch_gain());
        p.feed_forward(i);
        p.norm(Planner::block(i, "post_ffw_norm"), p.s.n_embd, p.branch_gain());
    }
}

// bloom and mpt: ALiBi instead of RoPE, layer norms with biases, no gate in the feed-forward.
void plan_alibi(Planner& p) {
    const bool bloom = p.s.arch == "bloom";
    p.common_keys(true);
    if (!bloom) p.f32("attention.max_alibi_bias", 8.0f);
    p.embeddings("output_norm", bloom);
    if (bloom) {
        p.norm("token_embd_norm", p.s.n_embd);
        p.bias("token_embd_norm", p.s.n_embd);
    }
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.layer_norms(i, bloom);
        p.fused_attention(i, bloom);
        p.feed_forward(i, false, bloom);
    }
}

void plan_gpt_oss(Planner& p) {
    p.common_keys();
    p.rope_keys(p.s.head_dim, 150000.0f);
    p.window_keys();
    p.expert_keys();
    p.embeddings();
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.norm(Planner::block(i, "attn_norm"), p.s.n_embd);
        p.norm(Planner::block(i, "post_attention_norm"), p.s.n_embd);
        p.attention(i, true, false, true);
        p.vector(Planner::block(i, "attn_sinks.weight"), p.s.n_head, 1.0f, 1.5f);
        p.experts(i, true);
    }
}

void plan_grok(Planner& p) {
    p.common_keys();
    p.rope_keys(p.s.head_dim);
    p.expert_keys();
    p.f32("embedding_scale", 1.0f);
    p.f32("logit_scale", 1.0f);
    p.f32("attention.output_scale", 1.0f / std::sqrt(float(p.s.head_dim)));
    p.f32("attn_logit_softcapping", p.s.softcap);
    p.embeddings();
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.layer_norms(i, false);
        p.attention(i, false, false);
        p.norm(Planner::block(i, "attn_output_norm"), p.s.n_embd, p.branch_gain());
        p.experts(i, false);
        p.norm(Planner::block(i, "post_ffw_norm"), p.s.n_embd, p.branch_gain());
    }
}

// Multi-head latent attention: all heads share one latent key of rank + n_rot elements. In deepseek32 an indexer chooses for each
// token the few that it sees.
void plan_deepseek2(Planner& p) {
    constexpr int64_t n_index_head = 64, index_dim = 128,
                      n_chosen = 64; // of DeepSeek V3.2, but for the last: 2,048 there
    const bool sparse = p.s.arch == "deepseek32";
    const int64_t n_rot = p.s.head_dim / 2, n_nope = p.s.head_dim - n_rot, rank = p.s.head_dim;
    p.common_keys();
    p.u32("attention.head_count_kv", 1);
    p.u32("attention.kv_lora_rank", rank);
    p.u32("attention.q_lora_rank", rank);
    p.u32("attention.key_length", rank + n_rot);
    p.u32("attention.value_length", rank);
    p.u32("attention.key_length_mla", p.s.head_dim);
    p.u32("attention.value_length_mla", p.s.head_dim);
    p.rope_keys(n_rot);
    p.u32("leading_dense_block_count", p.s.n_layer);
    p.u32("expert_feed_forward_length", p.s.n_ff);
    p.u32("expert_shared_count", 0);
    if (sparse) {
        p.u32("attention.indexer.head_count", n_index_head);
        p.u32("attention.indexer.key_length", index_dim);
        p.u32("attention.indexer.top_k", n_chosen);
        p.u32("expert_gating_func", 2); // a sigmoid; no layer has experts
    }
    p.embeddings();
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        const auto name = [&](const char* n) { return Planner::block(i, n); };
        p.layer_norms(i, false);
        p.norm(name("attn_q_a_norm"), rank);
        p.norm(name("attn_kv_a_norm"), rank);
        p.matrix(name("attn_q_a"), {p.s.n_embd, rank});
        p.matrix(name("attn_q_b"), {rank, p.n_q()}, score_gain);
        p.matrix(name("attn_kv_a_mqa"), {p.s.n_embd, rank + n_rot}, score_gain);
        p.matrix(name("attn_k_b"), {n_nope, rank, p.s.n_head}, score_gain);
        p.matrix(name("attn_v_b"), {rank, p.s.head_dim, p.s.n_head});
        p.matrix(name("attn_output"), {p.n_q(), p.s.n_embd}, p.branch_gain());
        if (sparse) {
            p.norm(name("indexer.k_norm"), index_dim);
            p.bias(name("indexer.k_norm"), index_dim);
            p.matrix(name("indexer.proj"), {p.s.n_embd, n_index_head});
            p.matrix(name("indexer.attn_k"), {p.s.n_embd, index_dim});
            p.matrix(name("indexer.attn_q_b"), {rank, n_index_head * index_dim});
        }
        p.feed_forward(i);
    }
}

void plan_lfm2(Planner& p) {
    constexpr int64_t conv = 3;
    p.common_keys(false, p.hybrid_kv_heads());
    p.rope_keys(p.s.head_dim, 1000000.0f);
    p.u32("shortconv.l_cache", conv);
    p.embeddings("token_embd_norm");
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.layer_norms(i, false);
        if (Planner::attends(i)) {
            p.attention(i, false, true);
        } else {
            p.f32_tensor(Planner::block(i, "shortconv.conv.weight"), {conv, p.s.n_embd}, 0, 0.6f);
            p.matrix(Planner::block(i, "shortconv.in_proj"), {p.s.n_embd, int64_t(3) * p.s.n_embd});
            p.matrix(Planner::block(i, "shortconv.out_proj"), {p.s.n_embd, p.s.n_embd}, p.branch_gain());
        }
        p.feed_forward(i);
    }
}

// Every layer has both, a recurrent part and attention.
void plan_falcon_h1(Planner& p) {
    p.common_keys();
    p.rope_keys(p.s.head_dim);
    p.mamba2_keys();
    p.embeddings();
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.norm(Planner::block(i, "attn_norm"), p.s.n_embd);
        p.vector(Planner::block(i, "ffn_norm"), p.s.n_embd, 1.0f,
                 0.1f); // without ".weight", as llama.cpp reads it
        p.mamba2(i);
        p.attention(i, false, false);
        p.feed_forward(i);
    }
}

void plan_granite_hybrid(Planner& p) {
    p.common_keys(false, p.hybrid_kv_heads());
    p.rope_keys(p.s.head_dim);
    p.mamba2_keys();
    p.embeddings();
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.layer_norms(i, false);
        if (Planner::attends(i))
            p.attention(i, false, false);
        else
            p.mamba2(i);
        p.feed_forward(i);
    }
}

// An encoder: every token sees all others; learned positions, norms behind each branch.
void plan_bert(Planner& p) {
    p.common_keys(true);
    gguf_set_val_bool(p.keys(), p.key("attention.causal").c_str(), false);
    p.u32("pooling_type", LLAMA_POOLING_TYPE_MEAN);
    constexpr int64_t n_types = 2;
    gguf_set_val_u32(p.keys(), "tokenizer.ggml.token_type_count", n_types);
    const auto norm = [&](const std::string& name) {
        p.norm(name, p.s.n_embd);
        p.bias(name, p.s.n_embd);
    };
    const float size = std::sqrt(float(p.s.n_embd)); // a row of a table is not summed up: elements of size 1
    p.matrix("token_embd", {p.s.n_embd, p.s.n_vocab}, size);
    p.f32_tensor("token_types.weight", {p.s.n_embd, n_types}, 0, 0.5f);
    p.matrix("position_embd", {p.s.n_embd, p.s.n_ctx_train}, 0.5f * size);
    norm("token_embd_norm");
    for (int32_t i = 0; i < p.s.n_layer; ++i) {
        p.attention(i, true, false, true);
        norm(Planner::block(i, "attn_output_norm"));
        p.feed_forward(i, false, true);
        norm(Planner::block(i, "layer_output_norm"));
    }
}

// T5: a learned bias by distance instead of positions, in the first layer for all of them; scores are not scaled.
class T5Planner {
public:
    explicit T5Planner(Planner& planner) : p(planner) {}
    void plan(bool with_decoder) {
        p.common_keys();
        p.u32("attention.relative_buckets_count", n_buckets);
        p.matrix("token_embd", {p.s.n_embd, p.s.n_vocab}, std::sqrt(float(p.s.n_embd)));
        half("enc", false);
        if (!with_decoder) return;
        p.u32("decoder_start_token_id", 0);
        half("dec", true);
        p.matrix("output", {p.s.n_embd, p.s.n_vocab}, logit_gain);
    }

private:
    static constexpr int64_t n_buckets = 32;
    void half(const char* side, bool crosses) {
        p.norm(fmt::format("{}.output_norm", side), p.s.n_embd);
        for (int32_t i = 0; i < p.s.n_layer; ++i) {
            block = fmt::format("{}.blk.{}.", side, i);
            attention("attn");
            if (i == 0) p.f32_tensor(block + "attn_rel_b.weight", {p.s.n_head, n_buckets}, 0, 1.0f);
            if (crosses) attention("cross_attn");
            p.norm(block + "ffn_norm", p.s.n_embd);
            p.matrix(block + "ffn_up", {p.s.n_embd, p.s.n_ff});
            p.matrix(block + "ffn_down", {p.s.n_ff, p.s.n_embd}, 1.5f * p.branch_gain());
        }
    }
    void attention(const char* kind) {
        const std::string name = block + kind;
        const float gain = score_gain / std::sqrt(std::sqrt(float(p.s.head_dim)));
        p.norm(name + "_norm", p.s.n_embd);
        p.matrix(name + "_q", {p.s.n_embd, p.n_q()}, gain);
        p.matrix(name + "_k", {p.s.n_embd, p.n_kv()}, gain);
        p.matrix(name + "_v", {p.s.n_embd, p.n_kv()});
        p.matrix(name + "_o", {p.n_q(), p.s.n_embd}, p.branch_gain());
    }

    Planner& p;
    std::string block;
};

} // namespace

ModelPlan plan_model(const ModelShape& shape) {
    Planner p(shape);
    const std::string& arch = shape.arch;
    if (arch == "gemma2" || arch == "gemma3")
        plan_gemma(p);
    else if (arch == "bloom" || arch == "mpt")
        plan_alibi(p);
    else if (arch == "gpt-oss")
        plan_gpt_oss(p);
    else if (arch == "grok")
        plan_grok(p);
    else if (arch == "deepseek2" || arch == "deepseek32")
        plan_deepseek2(p);
    else if (arch == "lfm2")
        plan_lfm2(p);
    else if (arch == "falcon-h1")
        plan_falcon_h1(p);
    else if (arch == "t5" || arch == "t5encoder")
        T5Planner(p).plan(arch == "t5");
    else if (arch == "bert")
        plan_bert(p);
    else if (arch == "granitehybrid")
        plan_granite_hybrid(p);
    else
        plan_llama(p);
    return std::move(p.plan);
}

} // namespace attnscope::models
