#include "server/dialects/kobold_words.h"

#include "base/version.h"

namespace attnscope::server {

namespace {
// The KoboldCPP whose shapes are spoken here: clients choose features by it. 1.60 and later stream and count tokens.
constexpr const char* spoken_version = "1.80";
} // namespace

const char* kobold_reason(const std::string& finish_reason) {
    return finish_reason == "stop"                                   ? "stop"
           : finish_reason == "length" || finish_reason == "context" ? "length"
                                                                     : "abort";
}

Json kobold_version(bool is_protected) {
    return {{"result", "KoboldCpp"}, {"version", spoken_version},   {"protected", is_protected}, {"txt2img", false},
            {"vision", false},       {"transcribe", false},         {"multiplayer", false},      {"websearch", false},
            {"tts", false},          {"attnscope", base::version()}};
}

std::string kobold_event(const Json& body, const std::string& members) {
    std::string text = json_text(body);
    if (!members.empty()) {
        text.pop_back();
        text += "," + members + "}";
    }
    return "event: message\ndata: " + text + "\n\n";
}

Json kobold_perf(const KoboldPerf& p) {
    const auto rate = [](int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0.0; };
    return {{"last_process", p.prompt_seconds},
            {"last_eval", p.generate_seconds},
            {"last_process_speed", rate(p.n_read, p.prompt_seconds)},
            {"last_eval_speed", rate(p.n_generated, p.generate_seconds)},
            {"last_token_count", p.n_generated},
            {"last_input_count", p.n_prompt},
            {"last_seed", p.seed},
            {"total_gens", p.n_generations},
            {"stop_reason", p.stop_reason},
            {"queue", p.n_waiting},
            {"idle", p.busy ? 0 : 1},
            {"uptime", p.up_seconds}};
}

} // namespace attnscope::server
