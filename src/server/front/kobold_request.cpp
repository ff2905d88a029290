#include "server/front/kobold_request.h"

#include "server/dialects/attention_json.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

constexpr size_t most_tokens = size_t(1) << 22;
constexpr size_t most_biases = 4096;

// {"15043": -100} or [[15043, -100], ["text", false]]; -100 and less forbids, which llama-server says with false.
OrderedJson read_biases(RequestFields& f) {
    OrderedJson out;
    const Json* given = f.find("logit_bias");
    if (!given || (given->is_structured() && given->empty())) return out;
    const auto bias_of = [&](const Json& bias) {
        if (bias.is_number()) return bias.get<double>() <= -100 ? OrderedJson(false) : OrderedJson(bias.get<double>());
        if (bias != Json(false)) f.fail("\"logit_bias\" of a token must be a number, or false to forbid it");
        return OrderedJson(false);
    };
    if (given->is_object() && given->size() <= most_biases) {
        out = OrderedJson::object();
        for (const auto& [key, bias] : given->items()) out[key] = bias_of(bias);
    } else if (given->is_array() && given->size() <= most_biases) {
        out = OrderedJson::array();
        for (const Json& pair : *given) {
            const bool good =
                pair.is_array() && pair.size() == 2 && (pair[0].is_string() || pair[0].is_number_integer());
            if (!good) {
                f.fail("\"logit_bias\" as an array must hold pairs: [token id or text, bias]");
                return out;
            }
            out.push_back(OrderedJson::array({OrderedJson::parse(json_text(pair[0])), bias_of(pair[1])}));
        }
    } else {
        f.fail(fmt::format("\"logit_bias\" must be an object or an array of at most {} token ids with their biases",
                           most_biases));
    }
    return out;
}

OrderedJson samplers(const KoboldFields& k, int64_t n_ctx) {
    OrderedJson out;
    out["temperature"] = k.temperature;
    out["top_k"] = std::max<int64_t>(k.top_k, 0);
    out["top_p"] = k.top_p;
    out["min_p"] = k.min_p;
    out["typical_p"] = k.typical;
    out["repeat_penalty"] = k.rep_pen;
    out["repeat_last_n"] = std::min(k.rep_pen_range, n_ctx);
    out["presence_penalty"] = k.presence_penalty;
    out["frequency_penalty"] = k.frequency_penalty;
    out["xtc_probability"] = k.xtc_probability;
    out["xtc_threshold"] = k.xtc_threshold;
    out["dry_multiplier"] = k.dry_multiplier;
    out["dry_base"] = k.dry_base;
    out["dry_allowed_length"] = k.dry_allowed_length;
    out["dry_penalty_last_n"] = k.dry_penalty_last_n < 0 ? n_ctx : std::min(k.dry_penalty_last_n, n_ctx);
    out["mirostat"] = k.mirostat;
    out["mirostat_tau"] = k.mirostat_tau;
    out["mirostat_eta"] = k.mirostat_eta;
    out["dynatemp_range"] = k.dynatemp_range;
    out["dynatemp_exponent"] = k.dynatemp_exponent;
    out["seed"] = k.sampler_seed;
    out["stop"] = k.stop_sequence;
    out["ignore_eos"] = k.ban_eos_token;
    return out;
}

Result<void> read_attention(RequestFields& f, const FrontService& service, KoboldRequest& out) {
    Result<AttentionWants> wants = read_attention_wants(f);
    if (!wants) return wants.error();
    out.wants = std::move(*wants);
    const Json* given = f.find("output_attentions");
    out.halo_weave = given && *given != Json(false);
    if (Result<void> r = check_hidden_states(f.find("output_hidden_states")); !r) return r.error();
    out.record = f.flag("record", false);
    if (out.record && service.options.server.record_dir.empty())
        f.fail("\"record\" needs a server that writes recordings (serve --record DIR, attach -o DIR)");
    return can_tell(out.wants, service);
}

Result<void> resolve_spans(KoboldRequest& out, const std::string* text, std::vector<std::string>& pieces) {
    AttentionWants& wants = out.wants;
    if (wants.character_spans.empty()) return {};
    if (!text)
        return Error{
            ErrorKind::invalid_argument,
            "\"attention.spans\": characters are counted in a prompt given as text; with token ids give columns"};
    AttentionFields fields{std::move(*wants.attention), std::exchange(wants.character_spans, {})};
    Result<void> resolved = resolve_character_spans(fields, pieces, *text);
    wants.attention = std::move(fields.request);
    return resolved;
}

} // namespace

void KoboldRequest::drop_logprobs() {
    if (!std::exchange(fields.logprobs, false)) return;
    body.erase("n_probs");
    ignored.emplace_back("logprobs");
}

Result<KoboldRequest> read_kobold_request(const FrontService& service, const LlamaProgram& program,
                                          const LlamaProps& props, const Json& body, const std::string& text) {
    KoboldRequest out;
    RequestFields f(body);
    out.fields = read_kobold_fields(f);
    OrderedJson biases = read_biases(f);
    if (Result<void> r = read_attention(f, service, out); !r) return r.error();
    const bool cache_prompt = f.flag("cache_prompt", true);
    const auto ids = f.token_ids("input_ids", INT32_MAX, most_tokens);
    const std::string prompt = read_kobold_text(f);
    Result<AnswerForm> form = read_answer_form(f, text); // says what is wrong with any field
    if (!form) return form.error();
    out.ignored = out.fields.ignored;
    out.ignored.insert(out.ignored.end(), form->ignored.begin(), form->ignored.end());
    for (std::string& name : unread_fields(body, f.known())) out.ignored.push_back(std::move(name));

    std::vector<std::string> pieces;
    const bool spans = !out.wants.character_spans.empty();
    Result<std::vector<int32_t>> tokens =
        ids ? Result<std::vector<int32_t>>(*ids) : program.tokens_of(prompt, true, spans ? &pieces : nullptr);
    if (!tokens) return tokens.error();
    out.prompt = std::move(*tokens);
    const KoboldFields& k = out.fields;
    const int64_t n_ctx = props.n_ctx > 0 ? props.n_ctx : INT32_MAX;
    const int64_t limit = k.max_context_length > 0 ? std::min<int64_t>(k.max_context_length, n_ctx) : n_ctx;
    int64_t n_predict = k.max_length;
    // Attention of a prompt that lost its beginning would be of other tokens than the client thinks.
    const bool may_cut = !ids && !out.wants.attention && !out.record;
    const bool too_long = static_cast<int64_t>(out.prompt.size()) >= limit;
    const bool keep_first = may_cut && too_long && out.prompt.front() == program.special_token(props, "bos_token");
    if (Result<void> r = fit_prompt(out.prompt, n_predict, limit, {may_cut, keep_first}); !r) return r.error();
    if (Result<void> r = resolve_spans(out, ids ? nullptr : &prompt, pieces); !r) return r.error();

    out.body = samplers(k, n_ctx);
    out.body["n_predict"] = n_predict;
    if (!biases.is_null()) out.body["logit_bias"] = std::move(biases);
    if (!form->grammar.empty()) out.body["grammar"] = form->grammar;
    if (!form->schema.is_null()) out.body["json_schema"] = std::move(form->schema);
    if (k.logprobs) out.body["n_probs"] = kobold_n_probs;
    out.body["cache_prompt"] = cache_prompt;
    out.body["prompt"] = out.prompt;
    out.body["stream"] = true;
    out.body["return_tokens"] = true;
    return out;
}

} // namespace attnscope::server
