// What the engine's tests/test-llama-archs.cpp needs of llama.cpp's `common` library, which is not built here: a batch's next
// token, and nothing else.
#pragma once

#include <llama.h>

#include <vector>

inline void common_init() {}

inline void common_batch_add(llama_batch& batch, llama_token id, llama_pos pos,
                             const std::vector<llama_seq_id>& sequences, bool logits) {
    const int32_t i = batch.n_tokens++;
    batch.token[i] = id;
    batch.pos[i] = pos;
    batch.n_seq_id[i] = static_cast<int32_t>(sequences.size());
    for (size_t s = 0; s < sequences.size(); ++s) batch.seq_id[i][s] = sequences[s];
    batch.logits[i] = static_cast<int8_t>(logits);
}
