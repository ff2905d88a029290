// Fields that say what an answer may be and how much of it there is: grammars, JSON schemas, biases, probabilities, several answers.
#pragma once

#include "server/generation/generation_fields.h"

#include <attnscope/error.h>

#include <string>

namespace attnscope::server {

// Whose fields and shapes: they give some names other meanings.
enum class Shape { completion, chat, llama }; // /v1/completions, /v1/chat/completions, /completion

// {"15043": -100, "text": false}, [[15043, 1.5], ["text", false]]: added to the logit of a token, or of each token of a text; -100 and
// less, or false, forbids it.
void read_logit_bias(RequestFields& f, const Service& service, SamplingOptions& s);

// `grammar`, `json_schema`, `response_format`: into a grammar, which is tried out. Words of a schema that the engine's converter passes over are noted as ignored.
Result<void> read_grammar(RequestFields& f, const Asked& asked, const Service& service, ReadRequest& out);

// `logprobs`, `top_logprobs`, `n_probs`.
void read_probabilities(RequestFields& f, Shape shape, ReadRequest& out);

// `n`, `best_of`, `echo`; what goes together with them.
void read_answers(RequestFields& f, Shape shape, ReadRequest& out);

} // namespace attnscope::server
