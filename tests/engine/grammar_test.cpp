// Grammars that the engine's samplers follow, JSON schemas, and hostile ones; probabilities against a softmax of our own.
#include "models/model_store.h"

#include <attnscope/session.h>

#include <gtest/gtest.h>
#include <llama-cpp.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace attnscope {
namespace {

using Json = nlohmann::ordered_json;

std::unique_ptr<Session> real_session() {
    const auto path = models::find_model("smollm2");
    if (!path) return nullptr;
    SessionOptions o;
    o.model_path = *path;
    o.n_ctx = 512;
    o.n_threads = 1;
    auto session = Session::open(o);
    return session ? std::move(*session) : nullptr;
}

std::string generated(Session& session, const std::string& prompt, const GenerateOptions& options,
                      std::string* reason = nullptr) {
    session.reset();
    std::string text;
    const auto tokens = session.tokenize(prompt, true, true);
    EXPECT_TRUE(tokens);
    const auto result = session.generate(*tokens, options, {}, [&](int32_t, const std::string& piece) {
        text += piece;
        return true;
    });
    EXPECT_TRUE(result) << result.error().message;
    if (reason && result) *reason = result->finish_reason;
    return text;
}

// a0 can be begun in 2^60 ways, all of which the engine follows.
std::string ambiguous_rules() {
    std::string rules;
    for (int i = 0; i < 60; ++i) {
        const std::string next = "a" + std::to_string(i + 1);
        rules += "a" + std::to_string(i) + " ::= " + next + " | " + next + " \"x\"\n";
    }
    return rules + "a60 ::= \"y\"\n";
}

TEST(Grammar, ForcesTheAnswerAndEndsWhereItIsComplete) {
    const auto session = real_session();
    ASSERT_TRUE(session) << "attnscope models get smollm2";
    GenerateOptions o;
    o.n_predict = 64;
    o.sampling.grammar = "root ::= \"The answer is \" (\"yes\" | \"no\") \".\"";
    for (const float temperature : {0.0f, 1.5f}) {
        o.sampling.temperature = temperature;
        std::string reason;
        const std::string text = generated(*session, "Is Paris in France?", o, &reason);
        EXPECT_TRUE(text == "The answer is yes." || text == "The answer is no.") << text;
        EXPECT_EQ(reason, "eos");
    }
    o.ignore_eos = true; // what is complete cannot go on
    EXPECT_EQ(generated(*session, "Is Paris in France?", o).back(), '.');
    o.sampling.mirostat = 2;
    EXPECT_EQ(generated(*session, "Is Paris in France?", o).back(), '.');
}

TEST(Grammar, OfASchemaMakesJsonThatFollowsItInItsOrder) {
    const auto session = real_session();
    ASSERT_TRUE(session);
    const auto grammar = session->grammar_of_schema(
        R"({"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer","minimum":1,"maximum":99},
            "kind":{"enum":["cat","dog"]}},"required":["name","age","kind"],"additionalProperties":false})");
    ASSERT_TRUE(grammar) << grammar.error().message;
    ASSERT_TRUE(session->check_grammar(*grammar));
    GenerateOptions o;
    o.n_predict = 100;
    o.sampling.grammar = *grammar;
    for (uint32_t seed = 1; seed <= 3; ++seed) {
        o.sampling.seed = seed;
        std::string reason;
        const std::string text = generated(*session, "A pet as JSON:", o, &reason);
        const Json pet = Json::parse(text, nullptr, false);
        ASSERT_TRUE(pet.is_object()) << text;
        ASSERT_EQ(pet.size(), 3u) << text;
        EXPECT_EQ(pet.begin().key(), "name"); // not by the alphabet
        EXPECT_TRUE(pet["age"].is_number_integer() && pet["age"] >= 1 && pet["age"] <= 99) << text;
        EXPECT_TRUE(pet["kind"] == "cat" || pet["kind"] == "dog") << text;
        EXPECT_EQ(reason, "eos");
    }
}

// What a stranger may send. Each must be refused in a sentence, soon, and leave the process as it was.
TEST(Grammar, HostileOnesAreRefusedInASentence) {
    const auto session = real_session();
    ASSERT_TRUE(session);
    const std::string doubling = "root ::= a0\n" + ambiguous_rules();
    std::string chain = "root ::= b0\n";
    for (int i = 0; i < 60000; ++i) chain += "b" + std::to_string(i) + " ::= b" + std::to_string(i + 1) + "\n";
    chain += "b60000 ::= b0 \"y\"\n";
    const std::string nested = "root ::= " + std::string(400000, '(') + "\"a\"" + std::string(400000, ')');
    const struct {
        std::string grammar, says;
    } cases[] = {{"", "empty"},
                 {"root ::= \"a", "unexpected end of input"},
                 {"root = \"a\"", "expecting ::="},
                 {"start ::= \"a\"", "root"},
                 {"root ::= missing", "Undefined rule identifier 'missing'"},
                 {"root ::= root \"a\" | \"b\"", "left recursion"},
                 {"root ::= (((\"a\"{1000}){1000}){1000}){1000}", "sane defaults"},
                 {"root ::= <[99999999999999999999]>", ""},
                 {"root ::= [\\U00300000-\\U00400000]", "no token of the vocabulary fits"},
                 {std::string("root ::= \"a\0b\"", 14), "NUL"},
                 {"%llguidance {}\nstart: /a/", ""},
                 {doubling, ""},
                 {chain, ""},
                 {nested, ""},
                 {std::string(200000, '\\'), ""},
                 {"root ::= \"\xFF\xFE\xC0\"", ""}};
    for (const auto& [grammar, says] : cases) {
        const auto begun = std::chrono::steady_clock::now();
        const Result<void> checked = session->check_grammar(grammar);
        const auto took = std::chrono::steady_clock::now() - begun;
        ASSERT_FALSE(checked) << grammar.substr(0, 60);
        EXPECT_EQ(checked.error().kind, ErrorKind::invalid_argument);
        const std::string& message = checked.error().message;
        EXPECT_EQ(message.find("the grammar "), 0u) << message;
        EXPECT_LT(message.size(), 500u) << message;
        EXPECT_NE(message.find(says), std::string::npos) << message << "\nof " << grammar.substr(0, 60);
        EXPECT_LT(took, std::chrono::seconds(100)) << grammar.substr(0, 60);
    }
    EXPECT_TRUE(session->check_grammar("root ::= \"a\""));
}

TEST(Grammar, OneThatGoesWrongLaterEndsItsGenerationAlone) {
    const auto session = real_session();
    ASSERT_TRUE(session);
    const std::string late = "root ::= \"a\" a0\n" + ambiguous_rules(); // begins well
    const auto tokens = session->tokenize("Hi", true, true);
    for (const std::string& grammar : {late, std::string("root ::= \"a\" [\\U00300000-\\U00400000]")}) {
        GenerateOptions o;
        o.sampling.grammar = grammar;
        session->reset();
        const auto begun = std::chrono::steady_clock::now();
        const auto result = session->generate(*tokens, o, {});
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().kind, ErrorKind::invalid_argument);
        EXPECT_EQ(result.error().message.find("the grammar "), 0u) << result.error().message;
        EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(100));
    }
    GenerateOptions plain;
    plain.n_predict = 3;
    session->reset();
    EXPECT_TRUE(session->generate(*tokens, plain, {}));
}

TEST(Grammar, HostileSchemasAreRefusedInASentence) {
    const auto session = real_session();
    ASSERT_TRUE(session);
    std::string opened, closed;
    for (int i = 0; i < 100000; ++i) opened += "{\"items\":", closed += "}";
    const std::string deep = opened + "{}" + closed;
    for (const std::string& schema :
         {std::string("{"), std::string(R"({"type":"no such type"})"), std::string(R"({"$ref":"#/definitions/none"})"),
          std::string(R"({"$ref":"https://example.invalid/schema"})"),
          std::string(R"({"type":"string","pattern":"^(?=a)b$"})")}) {
        const auto grammar = session->grammar_of_schema(schema);
        ASSERT_FALSE(grammar) << schema.substr(0, 60) << "\n" << *grammar;
        EXPECT_EQ(grammar.error().kind, ErrorKind::invalid_argument);
        EXPECT_EQ(grammar.error().message.find("the JSON schema "), 0u) << grammar.error().message;
    }
    (void)session->grammar_of_schema(deep); // whatever the engine makes of it, it is made elsewhere
    EXPECT_TRUE(session->grammar_of_schema("{}"));
}

// Against llama.h itself: the same tokens decoded by a context of our own, a softmax in float64.
TEST(TokenProbabilities, AreThoseOfTheEnginesLogits) {
    const auto session = real_session();
    ASSERT_TRUE(session);
    const auto prompt = session->tokenize("The capital of France is", true, true);
    ASSERT_TRUE(prompt);
    GenerateOptions o;
    o.n_predict = 4;
    o.sampling.temperature = 0; // samplers do not touch them:
    o.sampling.logit_bias = {{260, 3.0f}};
    o.sampling.repeat_penalty = 1.3f;
    o.n_probs = session->n_vocab();
    std::vector<TokenProbabilities> all;
    std::vector<int32_t> chosen;
    o.probabilities = [&](TokenProbabilities&& p) { all.push_back(std::move(p)); };
    const auto result = session->generate(*prompt, o, {}, [&](int32_t token, const std::string&) {
        chosen.push_back(token);
        return true;
    });
    ASSERT_TRUE(result) << result.error().message;
    ASSERT_EQ(all.size(), 4u);

    const llama_model_ptr model(
        llama_model_load_from_file(models::find_model("smollm2")->c_str(), llama_model_default_params()));
    ASSERT_TRUE(model);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    params.n_threads = params.n_threads_batch = 1;
    const llama_context_ptr context(llama_init_from_model(model.get(), params));
    ASSERT_TRUE(context);
    std::vector<int32_t> next = *prompt;
    for (size_t i = 0; i < all.size(); ++i) {
        ASSERT_EQ(llama_decode(context.get(), llama_batch_get_one(next.data(), static_cast<int32_t>(next.size()))), 0);
        const float* logits = llama_get_logits_ith(context.get(), -1);
        const size_t n_vocab = size_t(session->n_vocab());
        double sum = 0;
        for (size_t t = 0; t < n_vocab; ++t) sum += std::exp(static_cast<double>(logits[t]));
        const TokenProbabilities& p = all[i];
        EXPECT_EQ(p.chosen.token, chosen[i]);
        ASSERT_EQ(p.top.size(), n_vocab);
        double total = 0, worst = 0;
        for (const TokenProbability& t : p.top) {
            total += std::exp(t.log_probability);
            worst =
                std::max(worst, std::abs(t.log_probability - (static_cast<double>(logits[t.token]) - std::log(sum))));
        }
        EXPECT_NEAR(total, 1, 1e-9);
        EXPECT_LT(worst, 1e-3); // another batch of the prompt rounds otherwise
        EXPECT_TRUE(std::is_sorted(p.top.begin(), p.top.end(),
                                   [](const auto& a, const auto& b) { return a.log_probability > b.log_probability; }));
        std::printf("token %zu: sum 1 %+.1e, log-probabilities within %.1e of the engine's\n", i, total - 1, worst);
        next = {chosen[i]};
    }
}

} // namespace
} // namespace attnscope
