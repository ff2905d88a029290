// Parts of an answer before llama-server as Halo Weave, KoboldCPP's stream and KoboldCPP's whole answer tell them.
#pragma once

#include "server/front/kobold_request.h"
#include "server/front/llama_stream.h"

#include <cstdint>
#include <string>

namespace attnscope::server {

// Events of a stream.
std::string halo_weave_text(const StreamPart& part, const std::string& id);
std::string kobold_text(const StreamPart& part, const KoboldRequest& request);

// {"type": "done", ...} of Halo Weave's stream and the WebSocket, without RequestRows::end_members().
Json done_json(const StreamEnd& end, const std::string& id);

// The answer of /api/v1/generate, as it comes together.
class KoboldWhole {
public:
    explicit KoboldWhole(const KoboldRequest& request) : request_(request) {}
    void add(const StreamToken& token);
    std::string text(const StreamEnd& end);

private:
    void add_row(std::string& list, const TokenRow& row);
    const KoboldRequest& request_;
    std::string text_, rows_, prompt_rows_;
    std::string none_; // RequestRows::none()
    Json probabilities_ = Json::array();
    size_t bytes_ = 0;
    int64_t n_omitted_ = 0;
};

} // namespace attnscope::server
