// The hidden states that tokens are chosen from, while they are wanted.
#pragma once

#include <llama.h>

#include <cstddef>
#include <functional>
#include <span>

namespace attnscope::engine {

// llama.cpp gives hidden states of all tokens of a batch or of none, and computes logits for each of them: so they are
// switched on for batches of one token only, and off again at the end.
class HiddenStates {
public:
    using Sink = std::function<void(std::span<const float>)>;

    HiddenStates(llama_context* context, const Sink& sink) : context_(context), sink_(sink) {}
    ~HiddenStates() { enable(false); }
    HiddenStates(const HiddenStates&) = delete;
    HiddenStates& operator=(const HiddenStates&) = delete;

    // How many of the `left` last tokens of a prompt go into the next batch: all, or all but the last.
    size_t fit(size_t left) const { return sink_ && left > 1 ? left - 1 : left; }
    // For the next batch, and those after it.
    void enable(bool on) const {
        if (sink_) llama_set_embeddings(context_, on);
    }
    // Hands over that of the last decoded token; nothing when there is none.
    void deliver() const {
        if (!sink_) return;
        const float* values = llama_get_embeddings_ith(context_, -1);
        if (!values) return;
        sink_({values, static_cast<size_t>(llama_model_n_embd_out(llama_get_model(context_)))});
    }

private:
    llama_context* context_;
    const Sink& sink_;
};

} // namespace attnscope::engine
