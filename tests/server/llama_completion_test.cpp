// llama-server's own routes, in its shapes.
#include "served_model.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {
constexpr const char* prompt = "The capital of France is";
} // namespace

TEST(LlamaCompletion, AnswersAtOnceAndAsAStreamInItsShape) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    Json body = {{"prompt", prompt}, {"n_predict", 6}, {"temperature", 0}, {"return_tokens", true}};
    const Json whole = served.post("/completion", body);
    EXPECT_EQ(whole["stop"], true);
    EXPECT_EQ(whole["stop_type"], "limit");
    EXPECT_EQ(whole["tokens_predicted"], 6);
    EXPECT_EQ(whole["tokens"].size(), 6u);
    EXPECT_EQ(whole["prompt"], prompt);
    EXPECT_GT(whole["timings"]["predicted_per_second"].get<double>(), 0);
    const Json pieces = served.post("/detokenize", {{"tokens", whole["tokens"]}});
    EXPECT_EQ(pieces["content"], whole["content"]);
    body["stream"] = true;
    std::string streamed;
    const auto events = served.events("/completions", body);
    for (const Json& e : events) {
        ASSERT_TRUE(e.is_object()) << e.dump(); // no [DONE] here
        EXPECT_EQ(e["stop"], &e == &events.back());
        streamed += e["content"].get<std::string>();
    }
    EXPECT_EQ(Json(streamed), whole["content"]);
    EXPECT_EQ(events.back()["stop_type"], "limit");
    EXPECT_EQ(events.back()["tokens_evaluated"], whole["tokens_evaluated"]);
}

TEST(LlamaCompletion, SaysWhichWordStoppedItAndTakesPromptsInParts) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    Json body = {{"prompt", prompt}, {"n_predict", 8}, {"temperature", 0}};
    const std::string all = served.post("/completion", body)["content"];
    ASSERT_GT(all.size(), 8u);
    const std::string word = all.substr(5, 3);
    body["stop"] = Json::array({"never said", word});
    const Json stopped = served.post("/completion", body);
    EXPECT_EQ(stopped["stop_type"], "word");
    EXPECT_EQ(stopped["stopping_word"], word);
    EXPECT_EQ(stopped["content"], all.substr(0, all.find(word)));
    body.erase("stop");
    const Json ids = served.post("/tokenize", {{"content", " France is"}})["tokens"];
    Json parts = Json::array({"The capital of"});
    parts.insert(parts.end(), ids.begin(), ids.end());
    body["prompt"] = parts;
    EXPECT_EQ(served.post("/completion", body)["content"], all);
    for (const char* wrong : {R"(["a",-1])", R"(["a",1.5])", R"(["a",99999999])", R"(["a",[1]])", R"(["a","b"])"}) {
        EXPECT_EQ(served.status("/completion", std::string("{\"prompt\":") + wrong + "}"), 400) << wrong;
    }
    for (const char* field :
         {R"("post_sampling_probs":true)", R"("grammar":"root ::= \"a")", R"("lora":[{"id":0,"scale":1}])"}) {
        EXPECT_EQ(served.status("/completion", std::string(R"({"prompt":"a",)") + field + "}"), 400) << field;
    }
}

TEST(LlamaCompletion, AttentionComesBesideIt) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    Json body = {{"prompt", prompt}, {"n_predict", 3}, {"temperature", 0}, {"attention", {{"reduce", "mean"}}}};
    EXPECT_EQ(served.post("/completion", body)["attention"].size(), 3u);
    body["stream"] = true;
    size_t n = 0;
    for (const Json& e : served.events("/completion", body)) n += e.contains("attention");
    EXPECT_EQ(n, 3u);
}

TEST(LlamaCompletion, OtherNamesAndAnAliasAreKnown) {
    ServedModel served([](server::ServerOptions& o) { o.alias = "my model/v2"; });
    ASSERT_TRUE(served.ok()) << served.error();
    const Json slots = served.get("/slots");
    ASSERT_EQ(slots.size(), 1u);
    EXPECT_EQ(slots[0]["n_ctx"], 1024);
    EXPECT_EQ(served.get("/models")["data"][0]["id"], "my model/v2");
    EXPECT_EQ(served.get("/v1/models/my%20model%2Fv2")["id"], "my model/v2");
    EXPECT_EQ(served.get("/props")["model_alias"], "my model/v2");
    const Json chat = served.post(
        "/chat/completions", {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})}, {"max_tokens", 1}});
    EXPECT_EQ(chat["object"], "chat.completion");
    EXPECT_EQ(chat["model"], "my model/v2");
}

TEST(LlamaCompletion, PartsOfACharacterComeAsTheirBytes) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string character = "\xE6\xAD\xAA"; // no token of this vocabulary holds it
    const Json pieces = served.post("/tokenize", {{"content", character}, {"with_pieces", true}})["tokens"];
    const Json tokens = served.post("/api/v1/tokenize", {{"text", character}, {"add_special_tokens", false}})["tokens"];
    ASSERT_GT(pieces.size(), 1u);
    ASSERT_EQ(tokens.size(), pieces.size());
    std::string bytes;
    for (size_t i = 0; i < pieces.size(); ++i) {
        ASSERT_TRUE(pieces[i]["piece"].is_array()) << pieces.dump();
        EXPECT_EQ(tokens[i]["bytes"], pieces[i]["piece"]);
        for (const int byte : pieces[i]["piece"]) bytes += static_cast<char>(byte);
    }
    EXPECT_EQ(bytes, character);
    EXPECT_FALSE(served.post("/api/v1/tokenize", {{"text", "Hello"}})["tokens"][0].contains("bytes"));
}

TEST(LlamaCompletion, SmallRoutesNameTheFieldsThatTheyDoNotKnow) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    auto client = served.client();
    const Json bodies = {
        {"/tokenize", {{"content", "a"}, {"zzz", 1}}},
        {"/detokenize", {{"tokens", {1}}, {"zzz", 1}}},
        {"/apply-template", {{"messages", {{{"role", "user"}, {"content", "a"}}}}, {"zzz", 1}}},
        {"/api/v1/tokenize", {{"text", "a"}, {"zzz", 1}}},
        {"/api/v1/detokenize", {{"token_ids", {1}}, {"zzz", 1}}},
        {"/api/extra/tokencount", {{"prompt", "a"}, {"zzz", 1}}},
        {"/api/extra/detokenize", {{"ids", {1}}, {"zzz", 1}}},
        {"/api/v1/prune", {{"scores", {1, 2}}, {"chunks", {{0, 1}, {1, 2}}}, {"budget", 1}, {"zzz", 1}}}};
    for (const auto& [path, body] : bodies.items()) {
        const auto answer = client.Post(path, body.dump(), "application/json");
        ASSERT_TRUE(answer && answer->status == 200) << path << (answer ? answer->body : "");
        EXPECT_EQ(answer->get_header_value("X-Ignored-Fields"), "zzz") << path;
        Json known = body;
        known.erase("zzz");
        const auto again = client.Post(path, known.dump(), "application/json");
        EXPECT_TRUE(again && !again->has_header("X-Ignored-Fields")) << path;
    }
}
