// What llama-server behind us is asked before a request with attention goes on to it.
#pragma once

#include "server/front/upstream.h"
#include "server/http/request_fields.h"

#include <attnscope/error.h>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::server {

using OrderedJson = nlohmann::ordered_json; // what goes through us keeps the order of its members

class LlamaProgram {
public:
    LlamaProgram(UpstreamAddress to, httplib::Headers headers, GoneAway gone)
        : to_(std::move(to)), headers_(std::move(headers)), gone_(std::move(gone)) {}

    // Its slots, and which of them are at work as far as it tells.
    Result<std::vector<bool>> slots() const;
    // The tokens of a prompt as it takes them: a text, tokens, or both in turns.
    Result<std::vector<int32_t>> tokens(const OrderedJson& prompt) const;
    // The text of a token; empty: not told.
    Result<std::string> text(const std::vector<int32_t>& tokens) const;
    // The prompt that its template makes of a chat.
    Result<std::string> chat_prompt(const OrderedJson& body) const;
    Result<Json> get(const std::string& path) const;
    Result<Json> post(const std::string& path, const std::string& body) const;

private:
    const UpstreamAddress to_;
    const httplib::Headers headers_;
    const GoneAway gone_;
};

} // namespace attnscope::server
