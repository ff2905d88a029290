// A generation on its way out: as server-sent events while they come, or collected into one answer.
#pragma once

#include "server/generation/generation.h"
#include "server/http/request_fields.h"

#include <httplib.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::server {

// How a dialect writes what happens. Texts are whole server-sent events, with their empty line at the end.
class EventFormat {
public:
    virtual ~EventFormat() = default;
    // `attention` is JSON text, "null" where there is none; it may be megabytes, hence no Json.
    virtual std::string token(const GenerationEvent& event, const std::string& attention) = 0;
    virtual std::string prompt_row(const GenerationEvent& event, const std::string& attention) = 0;
    // `text`: what was held back until now.
    virtual std::string done(const std::string& text, const Generation& generation) = 0;
    virtual std::string failed(const std::string& message) = 0;
};

// Sends the generation as it comes. When the client is gone it ends.
void stream_events(const httplib::Request& request, httplib::Response& response, std::shared_ptr<Generation> generation,
                   std::shared_ptr<EventFormat> format);

// A whole generation in one answer.
struct Collected {
    std::string text;
    std::string attention;        // JSON array, one entry a generated token; empty when none was asked for
    std::string prompt_attention; // the same of the prompt's tokens
    int64_t n_omitted = 0;        // answers left out because they would exceed max_collected_bytes
    Json hidden_states;           // array; null when none were asked for
    GenerationSummary summary;
};
constexpr size_t max_collected_bytes = size_t(256) << 20;

// Waits for the end of the generation. False: the client is gone (and the generation with it).
bool collect(const httplib::Request& request, Generation& generation, Collected& out);
// Adds what was collected beside the dialect's own fields; text of a JSON object.
std::string with_attention(const Json& body, const Collected& collected, const Generation& generation);

// JSON text of an answer; docs/http.md lists the fields. `n_reused`: tokens of the prompt whose rows were not computed
// again, said in every answer so that nobody mistakes missing rows for zeros. `verdict`: of the frame.
struct AnswerContext {
    AttentionFormat format = AttentionFormat::f32;
    int64_t n_reused = 0;
    uint32_t verdict = verdict_ok;
};
AnswerContext answer_context(const Generation& generation, const GenerationEvent& event);
std::string attention_text(const AttentionAnswer& answer, const AnswerContext& context);
// The same up to the data, without the closing brace.
std::string attention_head(const AttentionAnswer& answer, const AnswerContext& context);
// The values as they travel.
std::vector<uint8_t> attention_bytes(const AttentionAnswer& answer, AttentionFormat format);
// JSON text of the attention of an event, or "null"; an error becomes {"error": ...}.
std::string event_attention(Generation& generation, const GenerationEvent& event);
Json hidden_state_json(const std::vector<float>& values);
Json scores_json(const Generation& generation);
Json scores_json(const PositionScores& scores, const std::vector<Accumulate>& wanted);
std::string base64(const void* data, size_t size);
// What the client may want to know of the whole: tokens, reuse, skipped answers, recording.
Json summary_json(const Generation& generation);

} // namespace attnscope::server
