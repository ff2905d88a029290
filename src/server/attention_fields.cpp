#include "server/attention_fields.h"

#include <fmt/format.h>

namespace attnscope::server {

namespace {

Result<AttentionRequest> parse_attention(const Json& object) {
    AttentionRequest request;
    RequestFields f(object);
    Result<Reduce> reduce = reduce_from_name(f.text("reduce", "none", 64));
    if (!reduce) return reduce.error();
    request.reduce = *reduce;
    Result<AttentionFormat> format = attention_format_from_name(f.text("format", "f32", 64));
    if (!format) return format.error();
    request.format = *format;
    request.every = static_cast<int32_t>(f.integer("every", 1, 1, 1 << 20));
    if (Result<void> r = f.status(); !r) return r.error();
    return request;
}

} // namespace

Result<void> read_attention_fields(const Json& body, const Service& service, GenerationRequest& out) {
    RequestFields f(body);
    out.record = f.flag("record", false);
    out.reuse_prefix = f.flag("cache_prompt", true);
    out.hidden_state = f.flag("output_hidden_states", false);
    if (out.record && service.options.record_dir.empty()) {
        f.fail("\"record\" needs a server that was started with --record DIR");
    }
    // Halo Weave: true gives every layer's rows; the name of a format chooses it.
    if (const Json* wanted = f.find("output_attentions"); wanted && *wanted != Json(false)) {
        AttentionRequest request;
        const std::string format = f.text("attention_format", wanted->is_string() ? wanted->get<std::string>() : "per_layer", 64);
        if (!wanted->is_boolean() && !wanted->is_string()) f.fail("\"output_attentions\" must be true or false");
        if (format != "per_layer" && format != "aggregated") f.fail("\"attention_format\" must be \"per_layer\" or \"aggregated\"");
        if (format == "aggregated") request.reduce = Reduce::mean;
        out.attention = request;
    }
    if (const Json* given = f.find("attention"); given && *given != Json(false)) {
        if (!given->is_object()) {
            f.fail("\"attention\" must be an object");
            return f.status();
        }
        RequestFields inner(*given);
        const std::string flow = inner.text("flow", "lossless", 64);
        if (flow != "lossless" && flow != "latest") f.fail("\"attention.flow\" must be \"lossless\" or \"latest\"");
        out.flow = flow == "latest" ? Flow::latest : Flow::lossless;
        out.prompt_rows = inner.flag("prompt_rows", false);
        if (Result<void> r = inner.status(); !r) return r.error();
        Json rest = *given;
        rest.erase("flow");
        rest.erase("prompt_rows");
        Result<AttentionRequest> request = parse_attention(rest);
        if (!request) return request.error();
        out.attention = std::move(*request);
    }
    if (out.attention) {
        if (Result<void> r = check_request(*out.attention, service.geometry); !r) return r.error();
    }
    return f.status();
}

Result<void> resolve_spans(const Json&, const Service&, const std::string&, bool, GenerationRequest&) { return {}; }

} // namespace attnscope::server
