#include "engine/sampler.h"

#include <random>

namespace attnscope::engine {

llama_sampler_ptr make_sampler(const SamplingOptions& o, int32_t n_vocab, uint32_t* seed) {
    *seed = o.seed == LLAMA_DEFAULT_SEED ? std::random_device{}() : o.seed;
    llama_sampler_ptr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    if (o.repeat_penalty != 1.0f && o.repeat_last_n != 0) {
        llama_sampler_chain_add(chain.get(),
                                llama_sampler_init_penalties(n_vocab, o.repeat_last_n, o.repeat_penalty, 0.0f, 0.0f));
    }
    if (o.temperature <= 0) {
        llama_sampler_chain_add(chain.get(), llama_sampler_init_greedy());
        return chain;
    }
    if (o.top_k > 0) llama_sampler_chain_add(chain.get(), llama_sampler_init_top_k(o.top_k));
    if (o.top_p < 1) llama_sampler_chain_add(chain.get(), llama_sampler_init_top_p(o.top_p, 1));
    if (o.min_p > 0) llama_sampler_chain_add(chain.get(), llama_sampler_init_min_p(o.min_p, 1));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(o.temperature));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(*seed));
    return chain;
}

} // namespace attnscope::engine
