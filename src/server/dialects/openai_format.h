// OpenAI's shapes: objects of an answer, and the chunks of a stream.
#pragma once

#include "server/generation/generation_fields.h"
#include "server/http/event_stream.h"

#include <ctime>
#include <string>

namespace attnscope::server {

// What all objects of one answer share, and what they hold.
struct OpenAiAnswer {
    const Session& session;
    bool chat = false;
    std::string id, model;
    std::time_t created = 0;
    int32_t n = 1;         // choices
    bool logprobs = false; // choices say how probable their tokens were
    bool usage = false;    // a stream ends with what it took
    std::string echo;      // what each choice begins with

    Json object(const char* name, Json choices) const;
    Json logprobs_of(std::span<const ToldToken> tokens) const; // null where they are not asked for
};

const char* openai_reason(const std::string& finish_reason);
// Of all answers to one prompt, which counts once.
Json openai_usage(std::span<const GenerationSummary> answers);

class OpenAiFormat : public EventFormat {
public:
    explicit OpenAiFormat(OpenAiAnswer answer) : answer_(std::move(answer)), trace_(answer_.session) {}
    std::string token(const GenerationEvent& event, const std::string& attention) override;
    std::string prompt_row(const GenerationEvent& event, const std::string& attention) override;
    std::string done(const std::string& text, const Generation& generation) override;
    std::string failed(const std::string& message) override;

private:
    Json chunk(Json choices) const;
    Json choice(std::string text, const char* finish_reason);

    const OpenAiAnswer answer_;
    // of the choice that comes
    TokenTrace trace_;
    size_t shown_ = 0; // bytes of its text, without the echo
    bool first_ = true;
    std::vector<GenerationSummary> ended_; // those before it
};

} // namespace attnscope::server
