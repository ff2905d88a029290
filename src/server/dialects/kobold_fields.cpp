#include "server/dialects/kobold_fields.h"

#include "server/dialects/tokenizer.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::server {

namespace {

constexpr size_t most_stops = 64, most_stop_bytes = 1024, most_key = 256;
constexpr int64_t most = int64_t(1) << 31;

void read_samplers(RequestFields& f, KoboldFields& k) {
    const auto number = [&](const char* key, double& value, double lowest, double highest) {
        value = f.number(key, value, lowest, highest);
    };
    const auto whole = [&](const char* key, int64_t& value, int64_t lowest, int64_t highest) {
        value = f.integer(key, value, lowest, highest);
    };
    number("temperature", k.temperature, 0, 100);
    whole("top_k", k.top_k, -1, most - 1);
    number("top_p", k.top_p, 0, 1);
    number("typical", k.typical, 0, 1);
    number("rep_pen", k.rep_pen, 0.01, 100);
    whole("rep_pen_range", k.rep_pen_range, 0, most);
    whole("sampler_seed", k.sampler_seed, -1, most * 2 - 1);
    number("min_p", k.min_p, 0, 1);
    number("presence_penalty", k.presence_penalty, -100, 100);
    number("frequency_penalty", k.frequency_penalty, -100, 100);
    number("xtc_probability", k.xtc_probability, 0, 1);
    number("xtc_threshold", k.xtc_threshold, 0, 1);
    number("dry_multiplier", k.dry_multiplier, 0, 100);
    number("dry_base", k.dry_base, 0, 100);
    whole("dry_allowed_length", k.dry_allowed_length, 0, 1 << 20);
    whole("dry_penalty_last_n", k.dry_penalty_last_n, -1, most);
    whole("mirostat", k.mirostat, 0, 2);
    number("mirostat_tau", k.mirostat_tau, 0, 1000);
    number("mirostat_eta", k.mirostat_eta, 0, 10);
    number("dynatemp_range", k.dynatemp_range, 0, 100);
    number("dynatemp_exponent", k.dynatemp_exponent, 0, 100);
}

} // namespace

KoboldFields read_kobold_fields(RequestFields& f) {
    KoboldFields k;
    k.max_length = f.integer("max_length", k.max_length, 0, most - 1);
    if (f.find("max_context_length")) k.max_context_length = f.integer("max_context_length", 8, 8, most);
    k.ban_eos_token = f.flag("ban_eos_token", false);
    read_samplers(f, k);
    k.stop_sequence = f.texts("stop_sequence", most_stops, most_stop_bytes);
    k.trim_stop = f.flag("trim_stop", true);
    const std::string genkey = f.text("genkey", "", most_key);
    k.id = f.text("request_id", genkey, most_key);
    refuse_unsupported(f, {"images", "audio"});
    k.logprobs = f.flag("logprobs", false);
    if (f.integer("n", 1, 1, 1 << 20) != 1) f.fail("\"n\" must be 1: one answer is generated for a request");
    if (const Json* tfs = f.find("tfs"); tfs && *tfs != Json(1)) k.ignored.emplace_back("tfs"); // 1: without effect
    for (const char* key : {"top_a", "rep_pen_slope", "smoothing_factor", "nsigma", "guidance_scale", "min_length"}) {
        if (const Json* value = f.find(key); value && *value != Json(0)) k.ignored.emplace_back(key);
    }
    return k;
}

std::string read_kobold_text(RequestFields& f) {
    return f.text("memory", "", max_text) + f.text("prompt", "", max_text);
}

std::string kobold_key(const std::string& body) {
    Result<Json> read = parse_body(body);
    if (!read) return {};
    RequestFields f(*read);
    const std::string key = f.text("genkey", "", most_key);
    return key.empty() ? f.text("request_id", "", most_key) : key;
}

bool says_something(const Json* value) {
    return value && *value != Json(false) && *value != Json(0) && *value != Json("") &&
           !(value->is_structured() && value->empty());
}

void refuse_unsupported(RequestFields& f, std::initializer_list<const char*> keys) {
    for (const char* key : keys) {
        if (says_something(f.find(key))) f.fail(fmt::format("\"{}\" is not supported by this server", key));
    }
}

Result<void> fit_prompt(std::vector<int32_t>& tokens, int64_t& n_predict, int64_t n_ctx, PromptCut cut) {
    const auto n = static_cast<int64_t>(tokens.size());
    if (n == 0) return Error{ErrorKind::invalid_argument, "the prompt is empty; give at least one token"};
    if (n >= n_ctx) {
        if (!cut.may_cut) {
            return Error{ErrorKind::invalid_argument, fmt::format("the prompt has {} tokens; at most {} {} {}", n,
                                                                  n_ctx - 1, context_overflow, n_ctx)};
        }
        const int64_t room =
            std::max<int64_t>(1, n_ctx - std::min<int64_t>(std::max<int64_t>(n_predict, 1), n_ctx / 2));
        const int64_t first = cut.keep_first && room > 1 ? 1 : 0;
        tokens.erase(tokens.begin() + first, tokens.begin() + first + (n - room));
    }
    const int64_t left = n_ctx - static_cast<int64_t>(tokens.size());
    if (n_predict < 0 || n_predict > left) n_predict = left;
    return {};
}

} // namespace attnscope::server
