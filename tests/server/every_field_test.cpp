// Every field that llama-server, OpenAI and KoboldCPP document, on every route that generates in this process: refused by name, named
// in X-Ignored-Fields, or of an effect that can be seen. llama-server's names are read out of the pinned sources, so that a new one is
// asked about.
#include "served_model.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Field {
    std::string name;
    Json value;                 // not its default
    bool used = false;          // it has an effect
    Json with = Json::object(); // beside it, or it could have none
    bool hidden = false;        // an effect that the answer does not show; another test does
};

const std::vector<Field>& fields() {
    const Json greedy = {{"temperature", 0}}, hot = {{"temperature", 2}};
    const Json dry = {{"temperature", 0}, {"dry_multiplier", 50}};
    const Json faint_dry = {{"temperature", 0}, {"dry_multiplier", 0.001}};
    const Json xtc = {{"temperature", 1}, {"xtc_probability", 1}}, mirostat = {{"mirostat", 2}};
    const Json ranged = {{"temperature", 2}, {"dynatemp_range", 2}};
    const Json ends = {{"temperature", 0}, {"logit_bias", {{"2", 100}}}}; // SmolLM2's end
    const Json schema = {{"enum", {"fox"}}};
    static const std::vector<Field> list = {
        // samplers
        {"temperature", 0, true},
        {"top_k", 1, true, hot},
        {"top_p", 0.001, true, hot},
        {"min_p", 1, true, hot},
        {"presence_penalty", 100, true, greedy},
        {"frequency_penalty", 100, true, greedy},
        {"xtc_probability", 1, true, {{"temperature", 1}, {"xtc_threshold", 0.01}}},
        {"xtc_threshold", 0.5, true, xtc},
        {"dry_multiplier", 50, true, greedy},
        {"dry_base", 100, true, faint_dry},
        {"dry_allowed_length", 1000, true, dry},
        {"dry_penalty_last_n", 0, true, dry},
        {"dry_sequence_breakers", {"x"}},
        {"dry_sequence_breakers", Json::array()}, // none: not what is so anyway
        {"samplers", Json::array()},
        {"samplers", {"top_k"}},
        {"parallel_tool_calls", false},
        {"parallel_tool_calls", true},
        {"stream_options", {{"include_usage", true}, {"include_obfuscation", true}}},
        {"mirostat", 2, true, {{"temperature", 2}, {"mirostat_tau", 0.1}}},
        {"mirostat_tau", 0.01, true, mirostat},
        {"mirostat_eta", 10, true, mirostat},
        {"dynatemp_range", 2, true, hot},
        {"dynatemp_exponent", 9, true, ranged},
        {"logit_bias", {{"260", 100}}, true, greedy},
        {"grammar", "root ::= \"fox\""},
        {"json_schema", schema},
        {"response_format", {{"type", "json_schema"}, {"json_schema", {{"schema", schema}}}}},
        {"logprobs", true},
        {"model", "another", false, {}, true},
        // names of llama-server and OpenAI
        {"n_predict", 2},
        {"max_tokens", 2},
        {"max_completion_tokens", 2},
        {"typical_p", 0.001},
        {"repeat_penalty", 50},
        {"repeat_last_n", 0},
        {"seed", 2},
        {"stop", " three"},
        {"ignore_eos", true},
        {"n_probs", 2},
        {"stream", true},
        {"stream_options", {{"include_usage", true}}},
        {"cache_prompt", false, true, {}, true},
        {"n", 2},
        {"best_of", 2},
        {"echo", true},
        {"top_logprobs", 2},
        {"return_tokens", true},
        {"chat_template_kwargs", {{"x", 1}}},
        {"reasoning_effort", "low"},
        {"add_generation_prompt", false},
        {"continue_final_message", true},
        // KoboldCPP
        {"max_length", 2, true},
        {"max_context_length", 16, true, greedy},
        {"typical", 0.001, true, hot},
        {"rep_pen", 50, true, greedy},
        {"rep_pen_range", 0, true, {{"temperature", 0}, {"rep_pen", 50}}},
        {"sampler_seed", 2, true, hot},
        {"stop_sequence", {" three"}, true, greedy},
        {"trim_stop", false, true, {{"temperature", 0}, {"stop_sequence", {" three"}}}},
        {"ban_eos_token", true, true, ends},
        {"memory", "A fox and a hen. ", true, greedy},
        {"genkey", "K1", true, {}, true},
        {"quiet", true, false, {}, true}};
    return list;
}

// Where each has no effect, whatever it holds: these values only must not be what such fields are by default.
const std::vector<std::string> without_effect = {
    // OpenAI (openai-python 2.54, CompletionCreateParams of completions and chat)
    "suffix", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "modalities", "audio",
    "prediction", "moderation", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "verbosity", "web_search_options",
    // KoboldCPP's API documentation, and what its pages send
    "tfs", "top_a", "nsigma", "smoothing_factor", "sampler_order", "use_default_badwordsids", "grammar_retain_state",
    "images", "render_special", "bypass_eos", "banned_tokens", "replace_instruct_placeholders", "rep_pen_slope",
    "guidance_scale", "negative_prompt", "min_length", "banned_strings", "token_ban_multiplier", "adaptive_target",
    "adaptive_decay", "singleline", "use_world_info", "gui_settings", "can_abort", "streaming", "api_server",
    "truncation_length", "top_n_sigma", "reasoning_format"};

// Names of llama-server's fields: of its schema, and of its page.
std::set<std::string> documented() {
    std::set<std::string> names;
    const auto text_of = [](const std::string& path) {
        std::ifstream in(std::string(ATTNSCOPE_LLAMA_DIR) + "/tools/server/" + path);
        return std::string(std::istreambuf_iterator<char>(in), {});
    };
    const auto find = [&](const std::string& text, const std::regex& what) {
        for (std::sregex_iterator it(text.begin(), text.end(), what), end; it != end; ++it) names.insert((*it)[1]);
    };
    find(text_of("server-schema.cpp"), std::regex(R"(new field_\w+\("([a-z_A-Z.]+)\")"));
    const std::string page = text_of("README.md");
    for (const auto& [from, to] :
         {std::pair{"### POST `/completion`", "### POST `/tokenize`"},
          std::pair{"### POST `/v1/chat/completions`: ", "### POST `/v1/chat/completions/control`"}}) {
        const size_t begin = page.find(from), end = page.find(to, begin);
        EXPECT_TRUE(begin != std::string::npos && end != std::string::npos) << from;
        std::string part = page.substr(begin, end - begin);
        part = std::regex_replace(part, std::regex("\n\\*\\*Response format\\*\\*[^]*"), "");
        find(part, std::regex("\n`([a-z_]+)` ?:"));
    }
    return names;
}

class EveryField : public ::testing::TestWithParam<const char*> {
protected:
    static void SetUpTestSuite() { served_ = std::make_unique<ServedModel>(Served::real); }
    static void TearDownTestSuite() { served_.reset(); }

    struct Answer {
        int status = 0;
        std::string ignored; // ", a, b, "
        std::string text;    // the same of equal requests
    };

    Answer ask(const Json& more, int n_tokens) const {
        static const std::string repeats = "one two three four one two three four one two three four one two";
        Json body = {{"prompt", repeats}, {"max_length", n_tokens}, {"sampler_seed", 1}};
        body.update(more);
        const auto response = served_->client().Post(GetParam(), body.dump(), "application/json");
        EXPECT_TRUE(response) << body.dump();
        if (!response) return {};
        return {response->status, ", " + response->get_header_value("X-Ignored-Fields") + ", ", response->body};
    }
    bool named(const Answer& answer, const std::string& name) const {
        const bool plain = name.size() > 6; // else it has to stand in quotes
        if (answer.status == 400) return answer.text.find((plain ? "" : "\\\"") + name) != std::string::npos;
        return answer.ignored.find(", " + name + ", ") != std::string::npos;
    }

    static inline std::unique_ptr<ServedModel> served_;
};

} // namespace

TEST_P(EveryField, IsUsedRefusedOrNamed) {
    ASSERT_TRUE(served_->ok()) << served_->error();
    std::set<std::string> told{"prompt"};
    for (const Field& field : fields()) {
        told.insert(field.name);
        if (field.hidden) continue;
        Json with = field.with;
        const Answer before = ask(with, field.used ? 10 : 1);
        ASSERT_EQ(before.status, 200) << field.name << ": " << before.text;
        with[field.name] = field.value;
        const Answer after = ask(with, field.used ? 10 : 1);
        if (field.used) {
            EXPECT_EQ(after.status, 200) << field.name << ": " << after.text;
            EXPECT_FALSE(named(after, field.name)) << field.name << " is named as ignored";
            EXPECT_NE(after.text, before.text) << field.name << " changes nothing";
        } else {
            EXPECT_TRUE(after.status == 400 || after.status == 200) << field.name << ": " << after.text;
            EXPECT_TRUE(named(after, field.name))
                << field.name << " is ignored in silence: " << after.text.substr(0, 300);
        }
    }
    std::set<std::string> rest(without_effect.begin(), without_effect.end());
    for (const std::string& name : documented()) {
        if (!told.count(name)) rest.insert(name);
    }
    EXPECT_GT(rest.size(), 60u);
    for (const std::string& name : rest) {
        if (told.count(name)) continue;
        for (const Json& value : {Json(2), Json({"a"})}) {
            const Answer answer = ask({{name, value}}, 1);
            EXPECT_TRUE(answer.status == 400 || answer.status == 200) << name << ": " << answer.text;
            EXPECT_TRUE(named(answer, name))
                << name << ": " << value << " is ignored in silence: " << answer.text.substr(0, 300);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Routes, EveryField, ::testing::Values("/api/v1/generate", "/api/extra/generate/stream"),
                         [](const auto& route) { return std::string(route.index == 0 ? "Whole" : "Stream"); });
