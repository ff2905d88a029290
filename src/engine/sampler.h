// llama.cpp's samplers in llama.cpp's default order.
#pragma once

#include <attnscope/session.h>

#include <llama-cpp.h>

#include <cstdint>

namespace attnscope::engine {

// `seed` receives the seed in use, also when a random one was asked for. Never null.
llama_sampler_ptr make_sampler(const SamplingOptions& options, const llama_vocab* vocab, uint32_t* seed);

} // namespace attnscope::engine
