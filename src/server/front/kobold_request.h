// A request in KoboldCPP's or Halo Weave's words, as llama-server takes it.
#pragma once

#include "server/dialects/attention_wants.h"
#include "server/dialects/kobold_fields.h"
#include "server/front/front_service.h"
#include "server/front/llama_program.h"

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::server {

struct KoboldRequest {
    KoboldFields fields;
    AttentionWants wants;
    bool record = false;
    bool halo_weave = false;          // tokens are objects in its stream
    std::vector<int32_t> prompt;      // as the program cuts it
    OrderedJson body;                 // of llama-server's /completion, streamed
    std::vector<std::string> ignored; // fields without effect
    // Of a stream, whose events have no place for them.
    void drop_logprobs();
};
// `text`: the body as it came. Asks the program for the tokens of the prompt.
Result<KoboldRequest> read_kobold_request(const FrontService& service, const LlamaProgram& program,
                                          const LlamaProps& props, const Json& body, const std::string& text);

} // namespace attnscope::server
