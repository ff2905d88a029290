// What KoboldCPP behind us is asked, in its own words.
#pragma once

#include "server/front/upstream.h"
#include "server/http/request_fields.h"

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::server {

class KoboldProgram {
public:
    KoboldProgram(UpstreamAddress to, httplib::Headers headers, GoneAway gone)
        : to_(std::move(to)), headers_(std::move(headers)), gone_(std::move(gone)) {}

    bool is_there() const; // does it say that it is KoboldCPP?
    Result<std::vector<int32_t>> tokens(const std::string& text, bool special) const;
    Result<std::string> text(const std::vector<int32_t>& tokens) const;
    Result<Json> get(const std::string& path) const;

private:
    Result<Json> post(const std::string& path, const Json& body) const;
    const UpstreamAddress to_;
    const httplib::Headers headers_;
    const GoneAway gone_;
};

} // namespace attnscope::server
