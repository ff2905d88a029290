// Probabilities of tokens, in the shapes of OpenAI's chat, of its completions, and of llama-server's completion.
#pragma once

#include "server/generation/generation.h"
#include "server/http/request_fields.h"

#include <span>
#include <string>
#include <vector>

namespace attnscope::server {

struct ToldToken {
    TokenProbabilities probabilities;
    std::string piece;
    size_t bytes = 0, characters = 0; // of the generated text before it
};

// The tokens of a text, told no sooner than their text is, so that those of a stop sequence never are.
class TokenTrace {
public:
    explicit TokenTrace(const Session& session) : session_(&session) {}
    void add(const GenerationEvent& event); // one without probabilities: nothing
    // The further tokens that begin within the first `shown` bytes of the text.
    std::vector<ToldToken> take(size_t shown);
    // So many tokens came without their most probable ones, because those waiting were too many.
    int64_t n_omitted() const { return n_omitted_; }

private:
    const Session* session_;
    std::vector<ToldToken> waiting_;
    size_t bytes_ = 0, characters_ = 0, n_top_ = 0;
    int64_t n_omitted_ = 0;
};

// Mean log-probability; what the best of several answers is chosen by.
double mean_log_probability(std::span<const ToldToken> tokens);

// choices[].logprobs of a chat: {"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}.
Json chat_logprobs(std::span<const ToldToken> tokens, const Session& session);
// The same of a completion: {"tokens", "token_logprobs", "top_logprobs", "text_offset"}.
Json completion_logprobs(std::span<const ToldToken> tokens, const Session& session);
// llama-server's completion_probabilities: as "content" of a chat, with ids.
Json completion_probabilities(std::span<const ToldToken> tokens, const Session& session);

} // namespace attnscope::server
