// What llama-server behind us is asked before a request with attention goes on to it.
#pragma once

#include "server/dialects/answer_form.h"
#include "server/front/upstream.h"
#include "server/http/request_fields.h"

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::server {

// The error of an answer whose status is not 200; the program's own words where it has some.
Error program_refused(int status, const std::string& body);

struct LlamaProps {
    int32_t n_ctx = 0; // of a slot
    Json all;
};

class LlamaProgram {
public:
    LlamaProgram(UpstreamAddress to, httplib::Headers headers, GoneAway gone)
        : to_(std::move(to)), headers_(std::move(headers)), gone_(std::move(gone)) {}

    // unsupported: it is no llama-server.
    Result<LlamaProps> props() const;
    // The id of "bos_token" or "eos_token"; -1: none.
    int32_t special_token(const LlamaProps& props, const char* name) const;
    // Its slots, and which of them are at work as far as it tells.
    Result<std::vector<bool>> slots() const;
    // The tokens of a prompt as it takes them: a text, tokens, or both in turns.
    Result<std::vector<int32_t>> tokens(const OrderedJson& prompt) const;
    // Those of a text, which may be none; with the bytes of each where `pieces` is given.
    Result<std::vector<int32_t>> tokens_of(const std::string& text, bool special,
                                           std::vector<std::string>* pieces = nullptr) const;
    // The bytes of tokens 0, 1, ...
    Result<std::vector<std::string>> pieces(int32_t n) const;
    // The text of tokens.
    Result<std::string> text(const std::vector<int32_t>& tokens) const;
    // The prompt that its template makes of a chat.
    Result<std::string> chat_prompt(const OrderedJson& body) const;
    Result<Json> get(const std::string& path) const;
    Result<Json> post(const std::string& path, const std::string& body) const;

private:
    Result<std::vector<int32_t>> read_tokens(const Result<Json>& answer, std::vector<std::string>* pieces) const;
    // `numbers`: each token is told by its number alone.
    Result<Json> tokenize(const std::string& body, bool numbers) const;
    const UpstreamAddress to_;
    const httplib::Headers headers_;
    const GoneAway gone_;
};

} // namespace attnscope::server
