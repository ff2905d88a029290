// `logit_bias` of a request: what is added to the logits of some tokens before one is chosen.
#pragma once

#include "server/http/request_fields.h"
#include "server/http/service.h"

namespace attnscope::server {

// {"15043": -100, "text": false}, [[15043, 1.5], ["text", false]]: added to the logit of a token, or of each token of a text; -100 and
// less, or false, forbids it.
void read_logit_bias(RequestFields& f, const Service& service, SamplingOptions& s);

} // namespace attnscope::server
