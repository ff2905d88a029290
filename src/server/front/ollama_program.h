// What Ollama behind us is asked, in its own words.
#pragma once

#include "server/dialects/answer_form.h"
#include "server/front/upstream.h"
#include "server/http/request_fields.h"

#include <attnscope/error.h>

#include <string>

namespace attnscope::server {

enum class OllamaRoute { openai_chat, openai_completion, chat, generate };

class OllamaProgram {
public:
    OllamaProgram(UpstreamAddress to, httplib::Headers headers, GoneAway gone)
        : to_(std::move(to)), headers_(std::move(headers)), gone_(std::move(gone)) {}

    bool is_there() const; // does it say that it is Ollama?
    // The name of the file that the model of a request is run from; not_found: there is no such model.
    Result<std::string> model_file(const OrderedJson& body) const;
    // The text that is made of a request, which is not generated from. Its model is loaded then.
    Result<std::string> prompt(OllamaRoute route, const OrderedJson& body) const;

private:
    Result<Json> post(const std::string& path, const OrderedJson& body) const;
    const UpstreamAddress to_;
    const httplib::Headers headers_;
    const GoneAway gone_;
};

} // namespace attnscope::server
