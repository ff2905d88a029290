// What to keep and what to change at the source, cause by cause. docs/diagnose.md says the same at length.
#include "diagnose/causes.h"

namespace attnscope::diagnose {

const char* cause_keep(Cause cause) {
    switch (cause) {
    case Cause::clean: return "everything, as it is";
    case Cause::learned_sinks: return "everything, as it is: what is missing from a row went to the sink";
    case Cause::quantised: return "everything, as it is: each number within half a step";
    case Cause::not_causal: return "everything, as it is, if the model is an encoder or its prompt is read both ways";
    case Cause::evicted: return "everything, as it is: columns are positions";
    case Cause::padding_queries: return "the other queries, as they are";
    case Cause::dropout:
        return "nothing as attention: what was dropped is gone (what is not 0 is the weight divided by 1 - rate)";
    case Cause::rescaled: return "everything, with each row divided by its sum";
    case Cause::other_axis: return "nothing as attention: weights of one row cannot be compared with one another";
    case Cause::sink_column:
        return "everything but the last column: rows then sum to less than 1, as with a learned sink they should";
    case Cause::raw_scores:
        return "the numbers as scores, not as attention; a softmax over each row gives the weights if, and "
               "only if, they "
               "were taken after scaling, soft cap and mask";
    case Cause::early_scores:
        return "the numbers as scores, not as attention; the scale, the soft cap and the mask have to be "
               "applied before a "
               "softmax means anything";
    case Cause::aliasing: return "one layer, kept as the last layer's; the other layers were overwritten and are gone";
    case Cause::race:
        return "nothing of the affected tokens: which layer and which moment a row is from cannot be told "
               "afterwards, "
               "also where its sum is 1";
    case Cause::stale_frame: return "the tokens that are not repeats; the repeated ones say nothing of their own token";
    case Cause::mixture: return "nothing of the mixed tokens; the others as they are";
    case Cause::padding: return "everything but the padding: the columns after the last used one";
    case Cause::cells_for_positions:
        return "nothing by position: without the table of cells and positions at each token the columns "
               "cannot be named";
    case Cause::transposed: return "everything, with the two axes exchanged back";
    case Cause::kv_heads: return "one row for each KV head, labelled so; the query heads cannot be had from it";
    case Cause::half_overflow: return "the tokens without NaN, infinity or 65504";
    case Cause::corrupt: return "the tokens that are whole";
    case Cause::unknown: return "nothing, until the reason is known";
    }
    return "";
}

const char* cause_fix(Cause cause) {
    switch (cause) {
    case Cause::clean:
    case Cause::learned_sinks:
    case Cause::evicted:
    case Cause::padding_queries: return "nothing";
    case Cause::quantised: return "store float16 or float32 where sums have to be 1";
    case Cause::not_causal:
        return "nothing for an encoder; for a decoder, give the attention its causal mask (sdpa without one has none)";
    case Cause::dropout: return "model.eval() before the forward pass";
    case Cause::rescaled:
        return "store what the softmax gives, not percent, a sum of heads, or parts of the largest weight";
    case Cause::other_axis: return "take the softmax over the last axis, the keys: softmax(scores, dim=-1)";
    case Cause::sink_column: return "cut the sink's column off after the softmax, as the model does: probs[..., :-1]";
    case Cause::raw_scores:
        return "take the output of the softmax (llama.cpp: `kq_soft_max`), not its input (`kq`, "
               "`kq_soft_max_ext`'s source)";
    case Cause::early_scores:
        return "take the output of the softmax, which applies the scale and the mask itself in llama.cpp; "
               "`kq` is the bare "
               "product of K and Q";
    case Cause::aliasing:
        return "copy each layer's tensor at the moment it is computed (an evaluation callback, a copy node "
               "in the graph), "
               "or mark it with ggml_set_output before the graph is allocated: the allocator gives every "
               "layer's "
               "`kq_soft_max` the same memory";
    case Cause::race:
        return "wait for the computation before reading (llama_synchronize), and copy each layer when it is "
               "computed: "
               "waiting alone leaves every layer the last one's";
    case Cause::stale_frame:
        return "read after the decode of this token has finished, and check that the graph was not reused "
               "with an old "
               "pointer";
    case Cause::mixture:
        return "do not read a buffer that is still being written: copy each layer when it is computed, then "
               "synchronise";
    case Cause::padding:
        return "cut rows to the number of positions in use: llama.cpp pads n_kv to a multiple of 256 cells";
    case Cause::cells_for_positions:
        return "record the position of each cell with every token and sort the columns by it: sliding-window "
               "caches are "
               "rings, and a shifted cache reuses freed cells";
    case Cause::transposed:
        return "in ggml ne[0] is the fastest axis: `kq_soft_max` is [n_kv, n_query, n_head], so C order is "
               "(head, query, kv)";
    case Cause::kv_heads:
        return "take one row for each query head: query head h uses KV head h / (n_head / n_head_kv), with "
               "its own query";
    case Cause::half_overflow:
        return "compute scores in float32 (llama.cpp: GGML_PREC_F32) and do not convert scores to half "
               "precision";
    case Cause::corrupt:
        return "write to a temporary name and rename when it is whole; check the free space; write checksums";
    case Cause::unknown: return "compare one token with the engine's own attention output";
    }
    return "";
}

} // namespace attnscope::diagnose
