#include "server/generation/generation_fields.h"

#include "server/dialects/attention_fields.h"
#include "server/dialects/kobold_fields.h"
#include "server/dialects/tokenizer.h"
#include "server/generation/logit_bias.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace attnscope::server {

namespace {

uint32_t seed_of(int64_t given) {
    return given < 0 ? std::numeric_limits<uint32_t>::max() : static_cast<uint32_t>(given);
}

void note_ignored(const Json& body, const RequestFields& f, ReadRequest& out) {
    out.known.insert(f.known().begin(), f.known().end());
    for (std::string& name : unread_fields(body, out.known)) out.ignored.push_back(std::move(name));
}

Result<void> fit(GenerationRequest& g, int64_t n_ctx, PromptCut cut) {
    int64_t n_predict = g.options.n_predict;
    if (Result<void> r = fit_prompt(g.tokens, n_predict, n_ctx, cut); !r) return r;
    g.options.n_predict = static_cast<int32_t>(n_predict);
    return {};
}

// What an answer may be, and how probable it was: llama-server's work, which is not done twice.
void refuse_what_the_engines_server_has(RequestFields& f) {
    for (const char* key : {"grammar", "json_schema", "response_format", "logprobs"}) {
        if (!says_something(f.find(key))) continue;
        f.fail(
            fmt::format("\"{}\" is not known with --in-process: attnscope serve without it has it, where llama-server "
                        "generates",
                        key));
    }
}

SamplingOptions sampling_of(const KoboldFields& k, int32_t n_ctx) {
    SamplingOptions s;
    s.temperature = static_cast<float>(k.temperature);
    s.top_k = static_cast<int32_t>(k.top_k);
    s.top_p = static_cast<float>(k.top_p);
    s.typical_p = static_cast<float>(k.typical);
    s.min_p = static_cast<float>(k.min_p);
    s.repeat_penalty = static_cast<float>(k.rep_pen);
    s.repeat_last_n = static_cast<int32_t>(std::min<int64_t>(k.rep_pen_range, n_ctx));
    s.seed = seed_of(k.sampler_seed);
    s.presence_penalty = static_cast<float>(k.presence_penalty);
    s.frequency_penalty = static_cast<float>(k.frequency_penalty);
    s.xtc_probability = static_cast<float>(k.xtc_probability);
    s.xtc_threshold = static_cast<float>(k.xtc_threshold);
    s.dry_multiplier = static_cast<float>(k.dry_multiplier);
    s.dry_base = static_cast<float>(k.dry_base);
    s.dry_allowed_length = static_cast<int32_t>(k.dry_allowed_length);
    s.dry_penalty_last_n =
        k.dry_penalty_last_n < 0 ? n_ctx : static_cast<int32_t>(std::min<int64_t>(k.dry_penalty_last_n, n_ctx));
    s.mirostat = static_cast<int32_t>(k.mirostat);
    s.mirostat_tau = static_cast<float>(k.mirostat_tau);
    s.mirostat_eta = static_cast<float>(k.mirostat_eta);
    s.dynatemp_range = static_cast<float>(k.dynatemp_range);
    s.dynatemp_exponent = static_cast<float>(k.dynatemp_exponent);
    return s;
}

} // namespace

Result<ReadRequest> read_kobold(const Json& body, const Service& service) {
    ReadRequest out;
    GenerationRequest& g = out.generation;
    RequestFields f(body);
    const int32_t n_ctx = service.session.n_ctx(), n_vocab = service.session.n_vocab();

    KoboldFields k = read_kobold_fields(f);
    g.options.n_predict = static_cast<int32_t>(k.max_length);
    g.options.ignore_eos = k.ban_eos_token;
    g.options.sampling = sampling_of(k, n_ctx);
    read_logit_bias(f, service, g.options.sampling);
    g.stops = std::move(k.stop_sequence);
    g.shown_stop = !k.trim_stop;
    g.id = std::move(k.id);
    out.ignored = std::move(k.ignored);

    out.halo_weave = f.flag("output_hidden_states", false);
    if (const Json* wanted = f.find("output_attentions")) out.halo_weave |= *wanted != Json(false);
    if (Result<void> r = read_attention_fields(body, service, out); !r) return r.error();

    const int64_t limit = k.max_context_length > 0 ? std::min<int64_t>(k.max_context_length, n_ctx) : n_ctx;
    auto ids = f.token_ids("input_ids", n_vocab, size_t(n_ctx));
    const std::string text = read_kobold_text(f);
    refuse_what_the_engines_server_has(f);
    if (Result<void> r = f.status(); !r) return r.error();
    note_ignored(body, f, out);
    const bool from_text = !ids;
    if (ids) {
        g.tokens = std::move(*ids);
    } else {
        Result<std::vector<int32_t>> tokens = tokenize_text(service, text, true, true);
        if (!tokens) return tokens.error();
        g.tokens = std::move(*tokens);
    }
    // Attention of a prompt that lost its beginning would be of other tokens than the client thinks.
    const bool may_cut = from_text && !g.attention && !g.record;
    const bool keep_first = !g.tokens.empty() && g.tokens.front() == service.model.bos;
    if (Result<void> r = fit(g, limit, {may_cut, keep_first}); !r) return r.error();
    if (Result<void> r = resolve_spans(service, from_text ? &text : nullptr, out); !r) return r.error();
    return out;
}

} // namespace attnscope::server
