// llama.cpp's samplers in llama.cpp's default order, and its grammar before them.
#pragma once

#include "engine/grammar.h"

#include <attnscope/session.h>

#include <llama-cpp.h>

#include <memory>
#include <vector>

namespace attnscope::engine {

class TokenChooser {
public:
    // `seed` receives the seed in use, also when a random one was asked for. Once `given_up` nobody waits for a grammar.
    static Result<std::unique_ptr<TokenChooser>> create(const SamplingOptions& options, const llama_vocab* vocab,
                                                        uint32_t* seed, GivenUp given_up = {});

    // A token of the prompt: repetition counts it, the grammar does not.
    void read(int32_t token) { llama_sampler_accept(chain_.get(), token); }
    // The next token, from the logits of the context's last output. invalid_argument: the grammar allows none.
    Result<int32_t> choose(llama_context* context);

private:
    int32_t n_vocab_ = 0;
    llama_sampler_ptr chain_;
    std::unique_ptr<Grammar> grammar_; // null: none
    std::vector<llama_token_data> candidates_;
};

} // namespace attnscope::engine
