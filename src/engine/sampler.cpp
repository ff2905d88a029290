#include "engine/sampler.h"

#include <iterator>
#include <random>
#include <vector>

namespace attnscope::engine {

llama_sampler_ptr make_sampler(const SamplingOptions& o, const llama_vocab* vocab, uint32_t* seed) {
    *seed = o.seed == LLAMA_DEFAULT_SEED ? std::random_device{}() : o.seed;
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    llama_sampler_ptr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    const auto add = [&](llama_sampler* sampler) { llama_sampler_chain_add(chain.get(), sampler); };
    if (!o.logit_bias.empty()) {
        std::vector<llama_logit_bias> biases;
        for (const auto& [token, bias] : o.logit_bias) biases.push_back({token, bias});
        add(llama_sampler_init_logit_bias(n_vocab, static_cast<int32_t>(biases.size()), biases.data()));
    }
    const bool penalties = o.repeat_penalty != 1.0f || o.presence_penalty != 0 || o.frequency_penalty != 0;
    if (penalties && o.repeat_last_n != 0) {
        add(llama_sampler_init_penalties(n_vocab, o.repeat_last_n, o.repeat_penalty, o.frequency_penalty,
                                         o.presence_penalty));
    }
    if (o.dry_multiplier > 0) {
        const char* breakers[] = {"\n", ":", "\"", "*"}; // llama.cpp's and KoboldCPP's default
        add(llama_sampler_init_dry(vocab, o.dry_multiplier, o.dry_base, o.dry_allowed_length, o.dry_penalty_last_n,
                                   breakers, std::size(breakers)));
    }
    if (o.temperature <= 0) {
        add(llama_sampler_init_greedy());
        return chain;
    }
    if (o.mirostat == 1) {
        add(llama_sampler_init_temp(o.temperature));
        add(llama_sampler_init_mirostat(n_vocab, *seed, o.mirostat_tau, o.mirostat_eta, 100));
        return chain;
    }
    if (o.mirostat == 2) {
        add(llama_sampler_init_temp(o.temperature));
        add(llama_sampler_init_mirostat_v2(*seed, o.mirostat_tau, o.mirostat_eta));
        return chain;
    }
    if (o.top_k > 0) add(llama_sampler_init_top_k(o.top_k));
    if (o.typical_p < 1) add(llama_sampler_init_typical(o.typical_p, 1));
    if (o.top_p < 1) add(llama_sampler_init_top_p(o.top_p, 1));
    if (o.min_p > 0) add(llama_sampler_init_min_p(o.min_p, 1));
    if (o.xtc_probability > 0) add(llama_sampler_init_xtc(o.xtc_probability, o.xtc_threshold, 1, *seed));
    if (o.dynatemp_range > 0) {
        add(llama_sampler_init_temp_ext(o.temperature, o.dynatemp_range, o.dynatemp_exponent));
    } else {
        add(llama_sampler_init_temp(o.temperature));
    }
    add(llama_sampler_init_dist(*seed));
    return chain;
}

} // namespace attnscope::engine
