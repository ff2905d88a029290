// What may be kept of a token, as a tensor of its own. Lossless where anything is kept: nothing is repaired
// or guessed.
#pragma once

#include <attnscope/diagnose.h>

#include <optional>
#include <vector>

namespace attnscope::diagnose {

struct KeptToken {
    int32_t n_layer = 0;
    int32_t n_head = 0;
    int64_t n_context = 0;
    std::vector<float> values; // (n_layer, n_head, n_context)
    std::string label;         // what it is; empty where it is what it claims to be
};

// Nothing where `keep` is Keep::nothing. `facts` are those of this token.
std::optional<KeptToken> keep_token(const DumpToken& token, const TokenFacts& facts, Keep keep);

} // namespace attnscope::diagnose
