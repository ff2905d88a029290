#include "server/generation/generation_fields.h"

#include "server/dialects/attention_fields.h"
#include "server/dialects/kobold_fields.h"
#include "server/dialects/tokenizer.h"
#include "server/generation/output_fields.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace attnscope::server {

namespace {

constexpr size_t max_stops = 64, max_stop_bytes = 1024;
constexpr int64_t max_n = int64_t(1) << 31;

// Sampling fields that several dialects share, under their common names.
void read_common_sampling(RequestFields& f, const Service& service, SamplingOptions& s) {
    const int32_t n_ctx = service.session.n_ctx();
    s.min_p = static_cast<float>(f.number("min_p", static_cast<double>(s.min_p), 0, 1));
    s.presence_penalty = static_cast<float>(f.number("presence_penalty", 0, -100, 100));
    s.frequency_penalty = static_cast<float>(f.number("frequency_penalty", 0, -100, 100));
    s.xtc_probability = static_cast<float>(f.number("xtc_probability", 0, 0, 1));
    s.xtc_threshold = static_cast<float>(f.number("xtc_threshold", 0.1, 0, 1));
    s.dry_multiplier = static_cast<float>(f.number("dry_multiplier", 0, 0, 100));
    s.dry_base = static_cast<float>(f.number("dry_base", 1.75, 0, 100));
    s.dry_allowed_length = static_cast<int32_t>(f.integer("dry_allowed_length", 2, 0, 1 << 20));
    const int64_t dry_last = f.integer("dry_penalty_last_n", -1, -1, max_n);
    s.dry_penalty_last_n = dry_last < 0 ? n_ctx : static_cast<int32_t>(std::min<int64_t>(dry_last, n_ctx));
    s.mirostat = static_cast<int32_t>(f.integer("mirostat", 0, 0, 2));
    s.mirostat_tau = static_cast<float>(f.number("mirostat_tau", 5, 0, 1000));
    s.mirostat_eta = static_cast<float>(f.number("mirostat_eta", 0.1, 0, 10));
    s.dynatemp_range = static_cast<float>(f.number("dynatemp_range", 0, 0, 100));
    s.dynatemp_exponent = static_cast<float>(f.number("dynatemp_exponent", 1, 0, 100));
}

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

Result<ReadRequest> read_kobold(const Json& body, const Asked& asked, const Service& service) {
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
    if (k.logprobs) g.n_probs = kobold_n_probs;
    out.logprobs = k.logprobs;
    out.ignored = std::move(k.ignored);

    out.halo_weave = f.flag("output_hidden_states", false);
    if (const Json* wanted = f.find("output_attentions")) out.halo_weave |= *wanted != Json(false);
    if (Result<void> r = read_attention_fields(body, service, out); !r) return r.error();

    const int64_t limit = k.max_context_length > 0 ? std::min<int64_t>(k.max_context_length, n_ctx) : n_ctx;
    auto ids = f.token_ids("input_ids", n_vocab, size_t(n_ctx));
    const std::string text = read_kobold_text(f);
    if (Result<void> r = read_grammar(f, asked, service, out); !r) return r.error();
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

namespace {

// What OpenAI documents: all of the vocabulary, at temperature 1.
SamplingOptions openai_defaults() {
    SamplingOptions s;
    s.temperature = 1;
    s.top_p = 1;
    s.top_k = 0;
    s.min_p = 0;
    return s;
}

Result<ReadRequest> read_openai_fields(const Json& body, const Asked& asked, const Service& service, Shape shape,
                                       const SamplingOptions& defaults) {
    ReadRequest out;
    GenerationRequest& g = out.generation;
    RequestFields f(body);
    const int32_t n_ctx = service.session.n_ctx();
    SamplingOptions& s = g.options.sampling;
    s = defaults;
    const auto number = [&](const char* key, float otherwise, double lowest, double highest) {
        return static_cast<float>(f.number(key, static_cast<double>(otherwise), lowest, highest));
    };
    const char* limit = f.either("max_completion_tokens", f.either("max_tokens", "n_predict"));
    g.options.n_predict = static_cast<int32_t>(f.integer(limit, -1, -1, max_n - 1));
    g.options.ignore_eos = f.flag("ignore_eos", false);
    s.temperature = number("temperature", s.temperature, 0, 100);
    s.top_p = number("top_p", s.top_p, 0, 1);
    s.top_k = static_cast<int32_t>(f.integer("top_k", s.top_k, -1, max_n - 1));
    s.typical_p = number("typical_p", 1, 0, 1);
    s.repeat_penalty = number("repeat_penalty", 1, 0.01, 100);
    s.repeat_last_n = static_cast<int32_t>(std::min<int64_t>(f.integer("repeat_last_n", 64, -1, max_n), n_ctx));
    if (s.repeat_last_n < 0) s.repeat_last_n = n_ctx;
    s.seed = seed_of(f.integer("seed", -1, -1, max_n * 2 - 1));
    read_common_sampling(f, service, s);
    read_logit_bias(f, service, s);
    g.stops = f.texts("stop", max_stops, max_stop_bytes);
    g.id = f.text("request_id", "", 256);
    out.stream = f.flag("stream", false);
    const Json* options = shape == Shape::llama ? nullptr : f.find("stream_options");
    if (options && options->is_object()) {
        RequestFields inner(*options);
        out.usage = inner.flag("include_usage", false);
        for (const std::string& name : unread_fields(*options, inner.known()))
            out.ignored.push_back("stream_options." + name);
    }
    if (const Json* tools = f.find("tools"); tools && !tools->empty())
        f.fail("\"tools\" are not supported by this server");
    refuse_unsupported(f, {"suffix", "functions", "audio", "modalities"});
    read_probabilities(f, shape, out);
    if (Result<void> r = f.status(); !r) return r.error();
    if (Result<void> r = read_attention_fields(body, service, out); !r) return r.error();
    read_answers(f, shape, out);
    if (Result<void> r = read_grammar(f, asked, service, out); !r) return r.error();
    for (const char* key : {"max_completion_tokens", "max_tokens", "n_predict"}) { // the first that is given counts
        const Json* other = f.find(key);
        if (other && *other != *f.find(limit)) out.ignored.emplace_back(key);
    }
    out.known.insert(f.known().begin(), f.known().end());
    return out;
}

} // namespace

namespace {

Result<std::vector<int32_t>> prompt_part(const Json& part, const Service& service, bool first) {
    if (part.is_string() && part.get_ref<const std::string&>().size() <= max_text)
        return tokenize_text(service, part.get<std::string>(), first, true);
    const double id = part.is_number() ? part.get<double>() : -1;
    if (!(id >= 0 && id < service.session.n_vocab()) || id != std::floor(id)) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("\"prompt\" holds a part that is neither text nor a token id from 0 to {}",
                                 service.session.n_vocab() - 1)};
    }
    return std::vector<int32_t>{static_cast<int32_t>(id)};
}

// `prompt` of a completion: a text, token ids, or both in turns (["<s>", 17, "text"], llama-server's).
Result<ReadRequest> with_prompt(const Json& body, const Service& service, ReadRequest read) {
    Result<ReadRequest> out(std::move(read));
    GenerationRequest& g = out->generation;
    RequestFields f(body);
    const int32_t n_ctx = service.session.n_ctx();
    const Json* prompt = f.find("prompt");
    std::string text;
    bool from_text = false;
    if (prompt && prompt->is_array() && !(prompt->size() == 1 && prompt->front().is_string())) {
        const bool mixed = std::any_of(prompt->begin(), prompt->end(), [](const Json& p) { return p.is_string(); }) &&
                           std::any_of(prompt->begin(), prompt->end(), [](const Json& p) { return p.is_number(); });
        if (mixed && prompt->size() <= size_t(n_ctx)) {
            for (const Json& part : *prompt) {
                Result<std::vector<int32_t>> ids = prompt_part(part, service, g.tokens.empty());
                if (!ids) return ids.error();
                g.tokens.insert(g.tokens.end(), ids->begin(), ids->end());
            }
        } else {
            auto ids = f.token_ids("prompt", service.session.n_vocab(), size_t(n_ctx));
            if (Result<void> r = f.status(); !r) return r.error();
            g.tokens = std::move(*ids);
        }
    } else {
        from_text = true;
        const std::vector<std::string> texts = f.texts("prompt", 1, max_text);
        if (Result<void> r = f.status(); !r) return r.error();
        if (!texts.empty()) text = texts.front();
        Result<std::vector<int32_t>> tokens = tokenize_text(service, text, true, true);
        if (!tokens) return tokens.error();
        g.tokens = std::move(*tokens);
    }
    note_ignored(body, f, *out);
    if (Result<void> r = fit(g, n_ctx, {}); !r) return r.error();
    if (out->echo) out->prompt = from_text ? text : text_of(service.session, g.tokens);
    if (Result<void> r = resolve_spans(service, from_text ? &text : nullptr, *out); !r) return r.error();
    return out;
}

} // namespace

Result<ReadRequest> read_completion(const Json& body, const Asked& asked, const Service& service) {
    Result<ReadRequest> out = read_openai_fields(body, asked, service, Shape::completion, openai_defaults());
    return out ? with_prompt(body, service, std::move(*out)) : out;
}

Result<ReadRequest> read_llama_completion(const Json& body, const Asked& asked, const Service& service) {
    RequestFields f(body);
    refuse_unsupported(f, {"lora", "image_data", "multimodal_data", "n_indent", "t_max_predict_ms"});
    const bool return_tokens = f.flag("return_tokens", false);
    if (Result<void> r = f.status(); !r) return r.error();
    Result<ReadRequest> out = read_openai_fields(body, asked, service, Shape::llama, {});
    if (!out) return out;
    out->return_tokens = return_tokens;
    out->known.insert(f.known().begin(), f.known().end());
    return with_prompt(body, service, std::move(*out));
}

Result<void> check_messages(const Json& body) {
    RequestFields f(body);
    const Json* messages = f.find("messages");
    const auto bad = [](const std::string& why) { return Error{ErrorKind::invalid_argument, why}; };
    if (!messages || !messages->is_array() || messages->empty()) {
        return bad("\"messages\" must be an array of messages with \"role\" and \"content\"");
    }
    if (messages->size() > 4096) return bad("\"messages\" holds more than 4096 messages");
    for (size_t i = 0; i < messages->size(); ++i) {
        const Json& m = (*messages)[i];
        if (!m.is_object()) return bad(fmt::format("\"messages\"[{}] must be an object", i));
        RequestFields one(m);
        const std::string role = one.text("role", "", 64);
        const Json* content = one.find("content");
        if (content && content->is_array()) {
            for (const Json& part : *content) {
                if (!part.is_object() || part.value("type", Json("text")) != Json("text") || !part.contains("text") ||
                    !part["text"].is_string()) {
                    return bad(
                        fmt::format("\"messages\"[{}] holds a part that is not text; this server reads text only", i));
                }
            }
        } else {
            one.text("content", "", max_text);
        }
        if (Result<void> r = one.status(); !r) return bad(fmt::format("\"messages\"[{}]: {}", i, r.error().message));
        if (role.empty()) return bad(fmt::format("\"messages\"[{}] has no \"role\"", i));
    }
    return {};
}

Result<ReadRequest> read_chat(const Json& body, const Asked& asked, const Service& service) {
    Result<ReadRequest> out = read_openai_fields(body, asked, service, Shape::chat, openai_defaults());
    if (!out) return out;
    GenerationRequest& g = out->generation;
    if (Result<void> r = check_messages(body); !r) return r.error();
    RequestFields f(body);
    for (const char* key :
         {"messages", "chat_template_kwargs", "reasoning_effort", "add_generation_prompt", "continue_final_message"}) {
        f.find(key); // the template's
    }
    note_ignored(body, f, *out);
    Result<std::string> text = service.session.chat_prompt_json(asked.text, asked.gone);
    if (!text) return text.error();
    Result<std::vector<int32_t>> tokens = tokenize_text(service, *text, true, true);
    if (!tokens) return tokens.error();
    g.tokens = std::move(*tokens);
    if (Result<void> r = fit(g, service.session.n_ctx(), {}); !r) return r.error();
    if (Result<void> r = resolve_spans(service, &*text, *out); !r) return r.error();
    return out;
}

} // namespace attnscope::server
