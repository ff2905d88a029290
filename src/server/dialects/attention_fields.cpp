#include "server/dialects/attention_fields.h"

#include "server/dialects/attention_json.h"
#include "server/dialects/attention_wants.h"

#include <utility>

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
    Result<AttentionWants> wants = read_attention_wants(f);
    if (!wants) return wants.error();
    g.attention = std::move(wants->attention);
    g.flow = wants->flow;
    g.prompt_rows = wants->prompt_rows;
    out.character_spans = std::move(wants->character_spans);
    if (g.attention && !service.options.attention) f.fail(no_attention_here);
    if (Result<void> r = f.status(); !r) return r;
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
