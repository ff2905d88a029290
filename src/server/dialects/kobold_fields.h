// The fields of KoboldCPP's requests with KoboldCPP's names and defaults, whoever generates.
#pragma once

#include "server/http/request_fields.h"

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::server {

struct KoboldFields {
    int64_t max_length = 180, max_context_length = 0; // 0: as much as there is
    double temperature = 0.7, top_p = 0.92, min_p = 0, typical = 1;
    int64_t top_k = 100;
    double rep_pen = 1, presence_penalty = 0, frequency_penalty = 0;
    int64_t rep_pen_range = 320;
    double xtc_probability = 0, xtc_threshold = 0.1;
    double dry_multiplier = 0, dry_base = 1.75;
    int64_t dry_allowed_length = 2, dry_penalty_last_n = -1; // -1: the whole context
    int64_t mirostat = 0;
    double mirostat_tau = 5, mirostat_eta = 0.1;
    double dynatemp_range = 0, dynatemp_exponent = 1;
    int64_t sampler_seed = -1; // -1: any
    std::vector<std::string> stop_sequence;
    bool trim_stop = true, ban_eos_token = false, logprobs = false;
    std::string id;                   // request_id or genkey: the client's name for it; may be empty
    std::vector<std::string> ignored; // given, and without effect here
};
// Marks in `f` what is out of bounds or cannot be done.
KoboldFields read_kobold_fields(RequestFields& f);
// So many most probable tokens are told of each where `logprobs` is true: as many as KoboldCPP tells.
inline constexpr int32_t kobold_n_probs = 5;

// `memory` and `prompt`.
std::string read_kobold_text(RequestFields& f);
// The client's name for a generation, of the body of a request about it; empty where it names none.
std::string kobold_key(const std::string& body);

// Is a field given with a value that asks for something? No, false, 0 and what is empty do not.
bool says_something(const Json* value);
// "\"images\" is not supported by this server" for each that is given and says something.
void refuse_unsupported(RequestFields& f, std::initializer_list<const char*> keys);

// Cuts a prompt and the number of tokens to what a context of n_ctx holds; n_predict below 0: as many as fit. `may_cut`: a prompt that is
// too long loses its oldest tokens, as with KoboldCPP, but for the first one where `keep_first`; otherwise it is refused.
struct PromptCut {
    bool may_cut = false, keep_first = false;
};
Result<void> fit_prompt(std::vector<int32_t>& tokens, int64_t& n_predict, int64_t n_ctx, PromptCut cut);

} // namespace attnscope::server
