// KoboldCPP's shapes, what is refused in them, and what is not answered in this process.
#include "served_model.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;

namespace {

Json kobold(const std::string& prompt, int n, Json more = Json::object()) {
    Json body = {{"prompt", prompt}, {"max_length", n}, {"temperature", 0}};
    body.update(more);
    return body;
}

} // namespace

TEST(Kobold, GeneratesAtOnceAndAsAStreamWithTheSameText) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json whole = served.post("/api/v1/generate", kobold("The capital of France is", 8));
    ASSERT_EQ(whole["results"].size(), 1u);
    const std::string text = whole["results"][0]["text"];
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(whole["results"][0]["finish_reason"], "length");
    std::string streamed;
    Json last;
    for (const Json& e : served.events("/api/extra/generate/stream", kobold("The capital of France is", 8))) {
        ASSERT_TRUE(e["token"].is_string()) << e.dump(); // an object would break KoboldAI Lite
        EXPECT_FALSE(e.contains("attention"));
        if (!last.is_null()) {
            EXPECT_TRUE(last["finish_reason"].is_null());
        }
        streamed += e["token"].get<std::string>();
        last = e;
    }
    EXPECT_EQ(streamed, text);
    EXPECT_EQ(last["finish_reason"], "length");
}

TEST(Kobold, TheTextIncludesTheStopSequenceUnlessTrimmed) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string all =
        served.post("/api/v1/generate", kobold("Count: 1, 2, 3,", 12, {{"ban_eos_token", true}}))["results"][0]["text"];
    ASSERT_GT(all.size(), 8u);
    const std::string stop = all.substr(4, 3);
    const size_t at = all.find(stop);
    const Json asked = kobold("Count: 1, 2, 3,", 12, {{"stop_sequence", Json::array({stop})}, {"trim_stop", false}});
    const Json shown = served.post("/api/v1/generate", asked)["results"][0];
    EXPECT_EQ(shown["text"], all.substr(0, at + stop.size()));
    EXPECT_EQ(shown["finish_reason"], "stop");
    Json trimming = asked;
    trimming.erase("trim_stop"); // as KoboldCPP since 1.82.4
    EXPECT_EQ(served.post("/api/v1/generate", trimming)["results"][0]["text"], all.substr(0, at));
}

TEST(Kobold, AbortAndCheckFindAGenerationByItsKey) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    auto running = std::async(std::launch::async, [&] {
        return served.post("/api/v1/generate",
                           kobold("Once upon a time", 900, {{"genkey", "K1"}, {"ban_eos_token", true}}));
    });
    std::string seen;
    for (int i = 0; i < 2000 && seen.empty(); ++i) {
        seen = served.post("/api/extra/generate/check", {{"genkey", "K1"}})["results"][0]["text"];
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_FALSE(seen.empty());
    EXPECT_EQ(served.post("/api/extra/generate/check", {{"genkey", "other"}})["results"][0]["text"], "");
    const Json wrong = served.post("/api/extra/abort", {{"genkey", "other"}});
    EXPECT_EQ(wrong["success"], "false");
    const Json ended = served.post("/api/extra/abort", {{"genkey", "K1"}});
    EXPECT_EQ(ended["success"], "true");
    EXPECT_EQ(ended["done"], "true");
    const std::string text = running.get()["results"][0]["text"];
    EXPECT_EQ(text.rfind(seen, 0), 0u);
    EXPECT_LT(served.get("/api/extra/perf")["last_token_count"].get<int>(), 800);
}

TEST(Kobold, TheSmallEndpointsAnswerInItsShapes) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json count = served.post("/api/extra/tokencount", {{"prompt", "Hello there"}});
    EXPECT_EQ(count["value"], count["ids"].size());
    const Json text = served.post("/api/extra/detokenize", {{"ids", count["ids"]}});
    EXPECT_EQ(text["success"], true);
    EXPECT_NE(text["result"].get<std::string>().find("Hello there"), std::string::npos);
    EXPECT_EQ(served.get("/api/v1/info/version")["result"], "1.2.5");
    EXPECT_EQ(served.get("/api/extra/version")["result"], "KoboldCpp");
    for (const char* path :
         {"/api/extra/true_max_context_length", "/api/v1/config/max_context_length", "/api/v1/config/max_length"}) {
        EXPECT_GT(served.get(path)["value"].get<int>(), 0) << path;
    }
    const Json perf = served.get("/api/extra/perf");
    for (const char* key : {"last_process", "last_eval", "last_token_count", "last_seed", "total_gens", "stop_reason",
                            "queue", "idle", "uptime"}) {
        EXPECT_TRUE(perf.contains(key)) << key;
    }
}

TEST(Kobold, AttentionIsAskedForOnItsEndpointsToo) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json attention = {{"reduce", "mean"}, {"prompt_rows", true}};
    const Json whole = served.post(
        "/api/v1/generate", kobold("The capital of France is", 3, {{"attention", attention}, {"cache_prompt", false}}));
    EXPECT_EQ(whole["attention"].size(), 3u);
    const size_t n_prompt = whole["results"][0]["prompt_tokens"];
    EXPECT_EQ(whole["prompt_attention"].size(), n_prompt - 1);
    size_t n = 0;
    for (const Json& e : served.events("/api/extra/generate/stream",
                                       kobold("The capital of France is", 3, {{"attention", attention}}))) {
        EXPECT_TRUE(e["token"].is_string());
        n += e.contains("attention") && !e.contains("prompt_token");
    }
    EXPECT_EQ(n, 3u);
}

TEST(Kobold, StopSequencesNeverShowInAStream) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    Json body = kobold("Count: 1, 2, 3,", 12);
    const std::string all = served.post("/api/v1/generate", body)["results"][0]["text"];
    const std::string stop = all.substr(5, 2);
    body["stop_sequence"] = Json::array({"never said", stop});
    std::string streamed;
    Json last;
    for (const Json& e : served.events("/api/extra/generate/stream", body)) {
        streamed += e["token"].get<std::string>();
        last = e;
    }
    EXPECT_EQ(streamed, all.substr(0, all.find(stop)));
    EXPECT_EQ(last["finish_reason"], "stop");
}

TEST(Kobold, AnAliasIsTheNameOfTheModel) {
    ServedModel served([](server::ServerOptions& o) { o.alias = "my model/v2"; });
    ASSERT_TRUE(served.ok()) << served.error();
    EXPECT_EQ(served.get("/api/v1/model")["model_name"], "my model/v2");
}

TEST(Dialects, OurPagesQuestionsInLlamaServersWordsAreAnswered) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    EXPECT_EQ(served.get("/health")["status"], "ok");
    const std::string prompt =
        served.post("/apply-template", {{"messages", Json::array({{{"role", "system"}, {"content", "Be brief."}},
                                                                  {{"role", "user"}, {"content", "Hi"}}})}})["prompt"];
    EXPECT_NE(prompt.find("<|im_start|>system\nBe brief."), std::string::npos);
    EXPECT_NE(prompt.find("<|im_start|>user\nHi"), std::string::npos);
    EXPECT_TRUE(prompt.ends_with("<|im_start|>assistant\n"));
    for (const char* wrong : {"{}", R"({"messages":"hello"})", R"({"messages":[1]})", "[", ""}) {
        Json answer;
        EXPECT_EQ(served.status("/apply-template", wrong, &answer), 400) << wrong;
        EXPECT_FALSE(answer["error"]["message"].get<std::string>().empty()) << answer.dump();
    }
}

TEST(Dialects, WhatTheEnginesServerHasIsToldToBeThere) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    for (const char* path : {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/embeddings",
                             "/chat/completions", "/models", "/completion", "/completions", "/infill", "/tokenize",
                             "/detokenize", "/props", "/slots", "/slots/0", "/metrics"}) {
        const auto got = served.client().Get(path);
        const auto posted = served.client().Post(path, R"({"prompt":"Hi"})", "application/json");
        ASSERT_TRUE(got && posted) << path;
        for (const auto& answer : {&*got, &*posted}) {
            EXPECT_EQ(answer->status, 404) << path;
            const std::string message = Json::parse(answer->body)["error"]["message"];
            EXPECT_NE(message.find("without"), std::string::npos) << message;
            EXPECT_NE(message.find("--in-process"), std::string::npos) << message;
        }
    }
    const Json of_the_engines_server = {{"grammar", "root ::= \"a\""},
                                        {"json_schema", {{"type", "object"}}},
                                        {"response_format", {{"type", "json_object"}}},
                                        {"logprobs", true}};
    for (const char* route : {"/api/v1/generate", "/api/extra/generate/stream"}) {
        for (const auto& [name, value] : of_the_engines_server.items()) {
            Json answer;
            EXPECT_EQ(served.status(route, kobold("Hi", 1, {{name, value}}).dump(), &answer), 400) << name;
            const std::string message = answer["detail"]["msg"];
            EXPECT_EQ(message.find("\"" + name + "\" is not known with --in-process"), 0u) << message;
            EXPECT_EQ(served.status(route, kobold("Hi", 1, {{name, nullptr}}).dump()), 200) << name;
        }
        EXPECT_EQ(served.status(route, kobold("Hi", 1, {{"grammar", ""}, {"logprobs", false}}).dump()), 200);
    }
}

TEST(Dialects, BadRequestsAreRefusedInTheDialectOfTheEndpoint) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    std::string deep = "{\"prompt\":";
    for (int i = 0; i < 5000; ++i) deep += '[';
    const std::vector<std::string> bodies = {"{",
                                             "[]",
                                             "nonsense",
                                             deep,
                                             "{\"prompt\":\"\xFF\xFE\"}",
                                             R"({"prompt":{"a":1}})",
                                             R"({"prompt":""})",
                                             R"({"prompt":"x","temperature":-1})",
                                             R"({"prompt":"x","temperature":1e99})",
                                             R"({"prompt":"x","top_k":1e300})",
                                             R"({"prompt":"x","attention":{"layers":[99]}})",
                                             R"({"prompt":"x","attention":{"reduce":"sum"}})",
                                             R"({"prompt":"x","attention":{"unknown":1}})",
                                             R"({"prompt":"x","attention":[1]})",
                                             R"({"prompt":"x","record":true})",
                                             R"({"prompt":"x","logit_bias":{"999999999":1}})",
                                             R"({"prompt":"x","attention":{"reduce":"spans","spans":[[5,2]]}})"};
    for (const std::string& body : bodies) {
        Json answer;
        EXPECT_EQ(served.status("/api/v1/generate", body, &answer), 400) << body.substr(0, 80);
        EXPECT_TRUE(answer["detail"]["msg"].is_string()) << answer.dump();
        EXPECT_EQ(served.status("/api/extra/generate/stream", body, &answer), 400) << body.substr(0, 80);
        EXPECT_TRUE(answer["detail"]["msg"].is_string()) << answer.dump();
    }
    for (const char* ids : {"[-1]", "[49152]", "[1e99]", "[1.5]", "[\"a\"]", "[null]", "{}", "[]"}) {
        EXPECT_EQ(served.status("/api/v1/generate", std::string("{\"input_ids\":") + ids + "}"), 400) << ids;
        EXPECT_EQ(served.status("/api/v1/detokenize", std::string("{\"token_ids\":") + ids + "}"),
                  std::string(ids) == "[]" ? 200 : 400)
            << ids;
    }
    Json too_many = Json::array();
    for (int i = 0; i < 1024; ++i) too_many.push_back(5);
    EXPECT_EQ(served.status("/api/v1/generate", Json({{"input_ids", too_many}}).dump()), 400);
    EXPECT_EQ(served.status("/no/such/place", "{}"), 404);
    EXPECT_EQ(served.status("/api/v1/generate", std::string(size_t(9) << 20, ' ')), 413);
    // And it still serves.
    EXPECT_EQ(served.post("/api/v1/generate", kobold("x", 2))["results"].size(), 1u);
}

TEST(Dialects, FieldsThatNoRouteKnowsAreNamed) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    auto client = served.client();
    const Json bodies = {
        {"/apply-template", {{"messages", {{{"role", "user"}, {"content", "a"}}}}, {"zzz", 1}}},
        {"/api/v1/tokenize", {{"text", "a"}, {"zzz", 1}}},
        {"/api/v1/detokenize", {{"token_ids", {1}}, {"zzz", 1}}},
        {"/api/extra/tokencount", {{"prompt", "a"}, {"zzz", 1}}},
        {"/api/extra/detokenize", {{"ids", {1}}, {"zzz", 1}}},
        {"/api/v1/generate", {{"prompt", "a"}, {"max_length", 1}, {"n", 1}, {"model", "m"}, {"zzz", 1}}},
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
    const auto several = client.Post(
        "/api/v1/generate",
        R"({"prompt":"Hi","max_length":1,"nsigma":2,"guidance_scale":1.5,"min_length":1,"sampler_order":[6]})",
        "application/json");
    ASSERT_TRUE(several);
    EXPECT_EQ(several->get_header_value("X-Ignored-Fields"), "nsigma, guidance_scale, min_length, sampler_order");
}

TEST(Dialects, RoutesHaveTheirOtherNamesAndTheNearestIsTold) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    auto client = served.client();
    for (const char* path : {"/api/v1/model/", "/api/latest/model", "/health/", "/"}) {
        const auto answer = client.Get(path);
        EXPECT_TRUE(answer && answer->status == 200) << path;
    }
    for (const char* path : {"/api/v1/generate/", "/api/latest/generate"}) {
        EXPECT_EQ(served.status(path, R"({"prompt":"Hi","max_length":1})"), 200) << path;
    }
    Json answer;
    EXPECT_EQ(served.status("/api/v1/generat", "{}", &answer), 404);
    EXPECT_NE(answer["detail"]["msg"].get<std::string>().find("/api/v1/generate"), std::string::npos) << answer.dump();
    EXPECT_EQ(served.status("/api/v1/generate", Json{{"input_ids", std::vector<int>(2000, 11)}}.dump(), &answer), 400);
    EXPECT_NE(answer["detail"]["msg"].get<std::string>().find("at most 1024"), std::string::npos) << answer.dump();
}

TEST(Dialects, AFullQueueIsToldAsBusy) {
    ServedModel served([](server::ServerOptions& o) { o.max_waiting = 1; }, 1024, Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const Json slow = kobold("Once upon a time", 900, {{"ban_eos_token", true}, {"genkey", "slow"}});
    auto first = std::async(std::launch::async, [&] { return served.post("/api/v1/generate", slow); });
    while (served.get("/api/extra/perf")["idle"] != 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    auto second = std::async(std::launch::async, [&] {
        return served.post("/api/v1/generate", kobold("x", 2, {{"genkey", "next"}}));
    });
    while (served.get("/api/extra/perf")["queue"] != 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    Json answer;
    EXPECT_EQ(served.status("/api/v1/generate", kobold("x", 2).dump(), &answer), 503);
    EXPECT_EQ(answer["detail"]["type"], "service_unavailable");
    EXPECT_EQ(served.status("/api/extra/generate/stream", kobold("x", 2).dump(), &answer), 503);
    served.post("/api/extra/abort", {{"genkey", "slow"}});
    first.get();
    EXPECT_EQ(second.get()["results"].size(), 1u); // the one that waited has its turn
}

TEST(Kobold, AWrongWordForAttentionIsNamedByTheFieldThatHoldsIt) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    for (const Json& wrong : {Json("what"), Json(1), Json::array()}) {
        Json answer;
        const Json body = {{"input_ids", {1, 2}}, {"max_length", 1}, {"output_attentions", wrong}};
        EXPECT_EQ(served.status("/api/extra/generate/stream", body.dump(), &answer), 400) << wrong;
        EXPECT_NE(answer.dump().find("output_attentions"), std::string::npos) << answer;
    }
}
