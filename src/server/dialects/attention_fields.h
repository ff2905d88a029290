// What a request says about attention, on every endpoint that generates: "attention", Halo Weave's "output_attentions"
// and "output_hidden_states", "record", "cache_prompt".
#pragma once

#include "server/generation/generation_fields.h"
#include "server/http/request_fields.h"
#include "server/http/service.h"

#include <attnscope/error.h>

#include <string>

namespace attnscope::server {

Result<void> read_attention_fields(const Json& body, const Service& service, ReadRequest& out);

// Spans that are given as characters of the prompt become columns, now that the prompt's tokens are known. `text`: what
// the tokens were made of; null when the client gave token ids.
Result<void> resolve_spans(const Service& service, const std::string* text, ReadRequest& out);

} // namespace attnscope::server
