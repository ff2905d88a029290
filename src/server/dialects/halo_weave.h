// Halo Weave's shape of a stream.
#pragma once

#include "server/http/event_stream.h"
#include "server/http/service.h"

#include <string>

namespace attnscope::server {

// {"token_id", "text"}
Json halo_weave_token(int32_t token, const std::string& text);

class HaloWeaveFormat : public EventFormat {
public:
    explicit HaloWeaveFormat(std::string request_id) : id_(std::move(request_id)) {}
    std::string token(const GenerationEvent& event, const std::string& attention) override;
    std::string prompt_row(const GenerationEvent& event, const std::string& attention) override;
    std::string done(const std::string& text, const Generation& generation) override;
    std::string failed(const std::string& message) override;

private:
    std::string id_;
};

} // namespace attnscope::server
