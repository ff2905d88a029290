#include "engine/sampler.h"

#include <cmath>
#include <iterator>
#include <random>
#include <span>
#include <utility>

namespace attnscope::engine {

namespace {

llama_sampler_ptr make_chain(const SamplingOptions& o, const llama_vocab* vocab, uint32_t* seed) {
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

// What the chain chooses of the engine's logits, or -1. `fits`: of each token whether it may be chosen; empty: all may.
int32_t choose_by(llama_sampler* chain, std::span<const float> logits, const std::vector<uint8_t>& fits,
                  std::vector<llama_token_data>& candidates) {
    candidates.resize(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) {
        candidates[i] = {static_cast<int32_t>(i), fits.empty() || fits[i] ? logits[i] : -INFINITY, 0};
    }
    llama_token_data_array all{candidates.data(), candidates.size(), -1, false};
    llama_sampler_apply(chain, &all);
    return all.selected >= 0 && size_t(all.selected) < all.size ? all.data[all.selected].id : -1;
}

} // namespace

Result<std::unique_ptr<TokenChooser>> TokenChooser::create(const SamplingOptions& options, const llama_vocab* vocab,
                                                           uint32_t* seed, GivenUp given_up) {
    auto chooser = std::make_unique<TokenChooser>();
    chooser->n_vocab_ = llama_vocab_n_tokens(vocab);
    chooser->chain_ = make_chain(options, vocab, seed);
    if (!options.grammar.empty()) {
        Result<std::unique_ptr<Grammar>> grammar = Grammar::start(vocab, options.grammar, std::move(given_up));
        if (!grammar) return grammar.error();
        chooser->grammar_ = std::move(*grammar);
    }
    return chooser;
}

// With a grammar as the engine's common_sampler_sample: it is asked of the one token that would be chosen anyway, and of all only where
// that does not fit.
Result<int32_t> TokenChooser::choose(llama_context* context) {
    if (!grammar_) return llama_sampler_sample(chain_.get(), context, -1);
    const std::span<const float> logits(llama_get_logits_ith(context, -1), size_t(n_vocab_));
    std::vector<uint8_t> fits;
    int32_t token = choose_by(chain_.get(), logits, fits, candidates_);
    Result<bool> taken = grammar_->take(token, fits);
    if (taken && !*taken) {
        token = choose_by(chain_.get(), logits, fits, candidates_);
        taken = grammar_->take(token, fits);
    }
    if (!taken) return taken.error();
    if (!*taken)
        return Error{ErrorKind::invalid_argument,
                     "the grammar cannot be followed: the samplers leave no token that fits"};
    llama_sampler_accept(chain_.get(), token);
    return token;
}

} // namespace attnscope::engine
