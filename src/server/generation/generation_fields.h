// From the body of a request to what the engine is asked: the fields of KoboldCPP and Halo Weave.
#pragma once

#include "server/http/request_fields.h"
#include "server/http/service.h"

#include <attnscope/error.h>

#include <cstddef>
#include <set>
#include <string>
#include <vector>

namespace attnscope::server {

struct ReadRequest {
    GenerationRequest generation;
    bool halo_weave = false;             // output_attentions or output_hidden_states: tokens are objects
    std::vector<size_t> character_spans; // places in attention->spans that still count characters
    std::set<std::string> known;         // fields that have an effect here, or are refused where they would have one
    std::vector<std::string> ignored;    // fields that were given and have none
};

// /api/v1/generate, /api/extra/generate/stream and its WebSocket.
Result<ReadRequest> read_kobold(const Json& body, const Service& service);

} // namespace attnscope::server
