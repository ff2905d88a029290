#include "server/dialects/attention_fields.h"

#include "server/dialects/attention_json.h"

#include <array>

namespace attnscope::server {

Result<void> read_attention_fields(const Json& body, const Service& service, ReadRequest& out) {
    GenerationRequest& g = out.generation;
    RequestFields f(body);
    g.record = f.flag("record", false);
    g.reuse_prefix = f.flag("cache_prompt", true);
    g.hidden_state = f.flag("output_hidden_states", false);
    if (g.record && service.options.record_dir.empty()) {
        f.fail("\"record\" needs a server that was started with --record DIR");
    }
    // Halo Weave: true gives every layer's rows; the name of a format chooses it.
    const Json* wanted = f.find("output_attentions");
    if (wanted && !wanted->is_boolean() && !wanted->is_string()) {
        f.fail("\"output_attentions\" must be true, false, \"per_layer\" or \"aggregated\"");
    } else if (wanted && *wanted != Json(false)) {
        const std::string format =
            f.text("attention_format", wanted->is_string() ? wanted->get<std::string>() : "per_layer", 64);
        if (format != "per_layer" && format != "aggregated") {
            f.fail("\"attention_format\" must be \"per_layer\" or \"aggregated\"");
        }
        AttentionRequest request;
        if (format == "aggregated") request.reduce = Reduce::mean;
        g.attention = request;
    }
    if (const Json* given = f.find("attention"); given && *given != Json(false)) {
        constexpr std::array<std::string_view, 2> ours{"flow", "prompt_rows"};
        Result<AttentionFields> fields = read_attention(*given, ours);
        if (!fields) return fields.error();
        RequestFields inner(*given);
        const std::string flow = inner.text("flow", "lossless", 64);
        if (flow != "lossless" && flow != "latest") inner.fail("\"attention.flow\" must be \"lossless\" or \"latest\"");
        g.flow = flow == "latest" ? Flow::latest : Flow::lossless;
        g.prompt_rows = inner.flag("prompt_rows", false);
        if (Result<void> r = inner.status(); !r) return r;
        g.attention = std::move(fields->request);
        out.character_spans = std::move(fields->character_spans);
    }
    if (g.attention && !service.options.attention) {
        f.fail("this server was started with --no-attention; ask without \"attention\" and \"output_attentions\"");
    }
    if (Result<void> r = f.status(); !r) return r;
    f.find("attention_format"); // known where no attention is asked for, too
    out.known.insert(f.known().begin(), f.known().end());
    if (!g.attention) return {};
    return check_request(*g.attention, service.geometry);
}

Result<void> resolve_spans(const Service& service, const std::string* text, ReadRequest& out) {
    if (out.character_spans.empty()) return {};
    if (!text) {
        return Error{
            ErrorKind::invalid_argument,
            "\"attention.spans\": characters are counted in a prompt given as text; with token ids give columns"};
    }
    std::vector<std::string> pieces;
    for (const int32_t token : out.generation.tokens) pieces.push_back(service.session.piece(token));
    AttentionFields fields{std::move(*out.generation.attention), std::move(out.character_spans)};
    Result<void> resolved = resolve_character_spans(fields, pieces, *text);
    out.generation.attention = std::move(fields.request);
    return resolved;
}

} // namespace attnscope::server
