// What a request says about attention, whoever generates: "attention", and Halo Weave's "output_attentions".
#pragma once

#include "server/generation/generation.h"
#include "server/http/request_fields.h"

#include <attnscope/attention_request.h>
#include <attnscope/error.h>

#include <cstddef>
#include <optional>
#include <vector>

namespace attnscope::server {

struct AttentionWants {
    std::optional<AttentionRequest> attention; // nothing: none is wanted
    std::vector<size_t> character_spans;       // places in attention->spans that still count characters
    Flow flow = Flow::lossless;
    bool prompt_rows = false;
};

// To whoever asks where nothing is captured.
inline constexpr const char* no_attention_here =
    "this server was started with --no-attention: neither \"attention\" nor \"output_attentions\" is answered";

// Reads them with `fields`, the fields of `body`. Bounds that need the model are check_request's.
Result<AttentionWants> read_attention_wants(RequestFields& fields);

} // namespace attnscope::server
