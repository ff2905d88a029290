#include "server/dialects/attention_wants.h"

#include "server/dialects/attention_json.h"

#include <array>
#include <string>
#include <string_view>
#include <utility>

namespace attnscope::server {

Result<AttentionWants> read_attention_wants(RequestFields& f) {
    AttentionWants out;
    // Halo Weave: true gives every layer's rows; the name of a format chooses it.
    const Json* wanted = f.find("output_attentions");
    if (wanted && !wanted->is_boolean() && *wanted != Json("per_layer") && *wanted != Json("aggregated")) {
        f.fail("\"output_attentions\" must be true, false, \"per_layer\" or \"aggregated\"");
    } else if (wanted && *wanted != Json(false)) {
        const std::string format =
            f.text("attention_format", wanted->is_string() ? wanted->get<std::string>() : "per_layer", 64);
        if (format != "per_layer" && format != "aggregated") {
            f.fail("\"attention_format\" must be \"per_layer\" or \"aggregated\"");
        }
        AttentionRequest request;
        if (format == "aggregated") request.reduce = Reduce::mean;
        out.attention = request;
    }
    if (const Json* given = f.find("attention"); given && *given != Json(false)) {
        constexpr std::array<std::string_view, 2> ours{"flow", "prompt_rows"};
        Result<AttentionFields> fields = read_attention(*given, ours);
        if (!fields) return fields.error();
        RequestFields inner(*given);
        const std::string flow = inner.text("flow", "lossless", 64);
        if (flow != "lossless" && flow != "latest") inner.fail("\"attention.flow\" must be \"lossless\" or \"latest\"");
        out.flow = flow == "latest" ? Flow::latest : Flow::lossless;
        out.prompt_rows = inner.flag("prompt_rows", false);
        if (Result<void> r = inner.status(); !r) return r.error();
        out.attention = std::move(fields->request);
        out.character_spans = std::move(fields->character_spans);
    }
    f.find("attention_format"); // known where no attention is asked for, too
    return out;
}

} // namespace attnscope::server
