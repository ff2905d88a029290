#include "server/http/event_stream.h"

#include "server/http/reply.h"

namespace attnscope::server {

namespace {
constexpr std::chrono::milliseconds patience{100}; // how soon a vanished client is noticed while nothing is sent
} // namespace

void stream_events(const httplib::Request& request, httplib::Response& response, std::shared_ptr<Generation> generation,
                   std::shared_ptr<EventFormat> format) {
    response.set_header("Cache-Control", "no-cache");
    response.set_header("X-Accel-Buffering", "no"); // proxies pass events on as they come
    const auto send = [generation, format](size_t, httplib::DataSink& sink) {
        const std::optional<GenerationEvent> event = generation->next(patience);
        if (!event) return sink.is_writable();
        std::string text;
        switch (event->kind) {
        case GenerationEvent::Kind::token: text = format->token(*event, event_attention(*generation, *event)); break;
        case GenerationEvent::Kind::prompt_row:
            text = format->prompt_row(*event, event_attention(*generation, *event));
            break;
        case GenerationEvent::Kind::done: {
            const GenerationSummary summary = generation->summary();
            const bool failed = summary.finish_reason == "error";
            text = failed ? format->failed(summary.error) : format->done(event->text, *generation);
            break;
        }
        }
        if (!text.empty() && !sink.write(text.data(), text.size())) return false;
        if (event->kind == GenerationEvent::Kind::done) sink.done();
        return true;
    };
    reply_in_pieces(request, response, "text/event-stream", send, [generation](bool) { generation->abandon(); });
}

bool collect(const httplib::Request& request, Generation& generation, Collected& out) {
    const bool rows = generation.request.attention.has_value();
    if (rows) {
        out.attention.push_back('[');
        out.prompt_attention.push_back('[');
    }
    if (generation.request.hidden_state) out.hidden_states = Json::array();
    size_t bytes = 0;
    const auto add = [&](std::string& list, const GenerationEvent& event) {
        if (!rows) return;
        const std::string one = event_attention(generation, event);
        const bool omit = bytes + one.size() > max_collected_bytes;
        out.n_omitted += omit;
        bytes += omit ? 0 : one.size();
        if (list.size() > 1) list += ',';
        list += omit ? "null" : one;
    };
    while (true) {
        const std::optional<GenerationEvent> event = generation.next(patience);
        if (!event) {
            if (!request.is_connection_closed()) continue;
            generation.abandon();
            return false;
        }
        // also while tokens keep coming: nobody is left to read the answer
        if (event->kind == GenerationEvent::Kind::token && request.is_connection_closed()) {
            generation.abandon();
            return false;
        }
        out.text += event->text;
        if (event->kind == GenerationEvent::Kind::done) break;
        add(event->kind == GenerationEvent::Kind::token ? out.attention : out.prompt_attention, *event);
        if (generation.request.hidden_state && event->kind == GenerationEvent::Kind::token) {
            bytes += event->hidden_state.size() * 6;
            out.hidden_states.push_back(bytes > max_collected_bytes ? Json() : hidden_state_json(event->hidden_state));
        }
    }
    if (rows) {
        out.attention += ']';
        out.prompt_attention += ']';
    }
    out.summary = generation.summary();
    return true;
}

std::string with_attention(const Json& body, const Collected& collected, const Generation& generation) {
    std::string text = json_text(body);
    text.pop_back(); // the closing brace
    const auto add = [&](const char* key, const std::string& value) {
        if (text.size() > 1) text += ',';
        text += '"';
        text += key;
        text += "\":";
        text += value;
    };
    if (!collected.attention.empty()) {
        add("attention", collected.attention);
        if (generation.request.prompt_rows) add("prompt_attention", collected.prompt_attention);
        if (collected.n_omitted > 0) add("attention_omitted", std::to_string(collected.n_omitted));
        const Json scores = scores_json(generation);
        if (!scores.is_null()) add("scores", json_text(scores));
        add("reused", std::to_string(collected.summary.n_reused));
    }
    if (!collected.hidden_states.is_null()) add("hidden_states", json_text(collected.hidden_states));
    if (!collected.summary.recording.empty()) add("recording", json_text(collected.summary.recording));
    return text + '}';
}

} // namespace attnscope::server
