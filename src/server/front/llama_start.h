// A request with attention on its way to llama-server: pinned to a slot, which is watched.
#pragma once

#include "server/front/front_service.h"
#include "server/front/llama_program.h"
#include "server/front/request_rows.h"

#include <memory>
#include <vector>

namespace attnscope::server {

struct LlamaStarted {
    std::shared_ptr<const void> slot; // of an answer that is not streamed: its line is looked for at its end
    std::unique_ptr<RequestRows> rows;
    std::shared_ptr<Upstream> upstream;
    Upstream::Head head;
};

struct LlamaAsked {
    std::vector<int32_t> prompt;
    AttentionWants wants; // without attention: only where the line is recorded
    bool streams = false;
    bool record = false;
};

// Sends `body` where `to_program` goes, and waits for the head of the answer.
Result<LlamaStarted> start_llama(FrontService& service, const LlamaProgram& program, httplib::Request to_program,
                                 OrderedJson body, LlamaAsked asked, const GoneAway& gone);

} // namespace attnscope::server
