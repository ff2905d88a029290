// KoboldCPP's, llama-server's and OpenAI's shapes.
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

TEST(OpenAi, ChatsAtOnceAndAsAStream) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    Json body = {{"model", "any"},
                 {"messages", Json::array({{{"role", "user"}, {"content", "Say hello."}}})},
                 {"max_tokens", 8},
                 {"temperature", 0}};
    const Json whole = served.post("/v1/chat/completions", body);
    EXPECT_EQ(whole["object"], "chat.completion");
    EXPECT_EQ(whole["choices"][0]["message"]["role"], "assistant");
    const std::string text = whole["choices"][0]["message"]["content"];
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(whole["usage"]["total_tokens"],
              whole["usage"]["prompt_tokens"].get<int>() + whole["usage"]["completion_tokens"].get<int>());
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
    const auto events = served.events("/v1/chat/completions", body);
    EXPECT_EQ(events.back(), "[DONE]");
    std::string streamed;
    int reasons = 0, usages = 0;
    for (const Json& e : events) {
        if (!e.is_object()) continue;
        EXPECT_EQ(e["object"], "chat.completion.chunk");
        usages += e.contains("usage");
        if (e["choices"].empty()) continue;
        const Json& choice = e["choices"][0];
        reasons += !choice["finish_reason"].is_null();
        streamed += choice["delta"].value("content", "");
    }
    EXPECT_EQ(streamed, text);
    EXPECT_EQ(reasons, 1);
    EXPECT_EQ(usages, 1);
    EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
}

TEST(OpenAi, CompletesTextAndTokenIds) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json whole =
        served.post("/v1/completions", {{"prompt", "The capital of France is"}, {"max_tokens", 6}, {"temperature", 0}});
    EXPECT_EQ(whole["object"], "text_completion");
    const Json ids =
        served.post("/tokenize", {{"content", "The capital of France is"}, {"add_special", true}})["tokens"];
    const Json by_ids =
        served.post("/v1/completions",
                    {{"prompt", ids}, {"max_tokens", 6}, {"temperature", 0}, {"attention", {{"reduce", "mean"}}}});
    EXPECT_EQ(by_ids["choices"][0]["text"], whole["choices"][0]["text"]);
    EXPECT_EQ(by_ids["attention"].size(), 6u);
    EXPECT_EQ(served.get("/v1/models")["data"][0]["object"], "model");
}

TEST(OpenAi, StopSequencesNeverShow) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const Json base = {{"prompt", "Count: 1, 2, 3,"}, {"max_tokens", 12}, {"temperature", 0}};
    const std::string all = served.post("/v1/completions", base)["choices"][0]["text"];
    Json body = base;
    body["stop"] = all.substr(5, 2);
    const std::string cut = all.substr(0, all.find(all.substr(5, 2)));
    const Json whole = served.post("/v1/completions", body);
    EXPECT_EQ(whole["choices"][0]["text"], cut);
    EXPECT_EQ(whole["choices"][0]["finish_reason"], "stop");
    body["stream"] = true;
    std::string streamed;
    for (const Json& e : served.events("/v1/completions", body)) {
        if (e.is_object() && !e["choices"].empty()) streamed += e["choices"][0].value("text", "");
    }
    EXPECT_EQ(streamed, cut);
}

TEST(LlamaServer, ItsEndpointsAnswerInItsShapes) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    EXPECT_EQ(served.get("/health")["status"], "ok");
    const Json props = served.get("/props");
    EXPECT_EQ(props["total_slots"], 1);
    EXPECT_FALSE(props["chat_template"].get<std::string>().empty());
    const Json tokens = served.post("/tokenize", {{"content", "Hello"}, {"with_pieces", true}})["tokens"];
    ASSERT_EQ(tokens.size(), 1u);
    EXPECT_EQ(tokens[0]["piece"], "Hello");
    EXPECT_EQ(served.post("/detokenize", {{"tokens", Json::array({tokens[0]["id"]})}})["content"], "Hello");
    const std::string prompt =
        served.post("/apply-template", {{"messages", Json::array({{{"role", "system"}, {"content", "Be brief."}},
                                                                  {{"role", "user"}, {"content", "Hi"}}})}})["prompt"];
    EXPECT_NE(prompt.find("<|im_start|>system\nBe brief."), std::string::npos);
    EXPECT_NE(prompt.find("<|im_start|>user\nHi"), std::string::npos);
    EXPECT_TRUE(prompt.ends_with("<|im_start|>assistant\n"));
    served.post("/v1/completions", {{"prompt", "x"}, {"max_tokens", 3}, {"ignore_eos", true}});
    const auto metrics = served.client().Get("/metrics");
    ASSERT_TRUE(metrics);
    EXPECT_NE(metrics->body.find("llamacpp:tokens_predicted_total 3\n"), std::string::npos) << metrics->body;
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
        EXPECT_EQ(served.status("/v1/completions", body, &answer), 400) << body.substr(0, 80);
        EXPECT_TRUE(answer["error"]["message"].is_string()) << answer.dump();
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
    EXPECT_EQ(
        served.status("/v1/chat/completions", R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})"),
        400);
    EXPECT_EQ(served.status("/no/such/place", "{}"), 404);
    EXPECT_EQ(served.status("/api/v1/generate", std::string(size_t(9) << 20, ' ')), 413);
    // And it still serves.
    EXPECT_EQ(served.post("/api/v1/generate", kobold("x", 2))["results"].size(), 1u);
}

TEST(Dialects, NoFieldIsIgnoredInSilence) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    auto client = served.client();
    for (const char* field : {R"("suffix":"x")", R"("post_sampling_probs":true)", R"("tools":[{"type":"function"}])",
                              R"("functions":[{"name":"f"}])", R"("modalities":["audio"])", R"("n":33)"}) {
        const std::string name = std::string(field).substr(0, std::string(field).find(':'));
        Json answer;
        const std::string body = std::string(R"({"prompt":"Hi","max_tokens":1,)") + field + "}";
        EXPECT_EQ(served.status("/v1/completions", body, &answer), 400) << field;
        EXPECT_NE(answer["error"]["message"].get<std::string>().find(name), std::string::npos) << answer.dump();
    }
    const auto ignored = [&](const std::string& path, const std::string& body) {
        const auto answer = client.Post(path, body, "application/json");
        EXPECT_TRUE(answer && answer->status == 200) << path << (answer ? answer->body : "");
        return answer ? answer->get_header_value("X-Ignored-Fields") : std::string();
    };
    EXPECT_EQ(ignored("/v1/completions", R"({"prompt":"Hi","max_tokens":1,"samplers":["top_k"],"zzz":1,"model":"m"})"),
              "samplers, zzz");
    EXPECT_EQ(ignored("/v1/completions", R"({"prompt":"Hi","max_tokens":1,"temperature":0,"n":1,"echo":false})"), "");
    EXPECT_EQ(ignored("/v1/completions", R"({"prompt":"Hi","max_tokens":1,"n_predict":2})"), "n_predict");
    EXPECT_EQ(ignored("/v1/completions",
                      R"({"prompt":"Hi","max_tokens":1,"stream":true,"stream_options":{"include_obfuscation":true}})"),
              "stream_options.include_obfuscation");
    EXPECT_EQ(ignored("/v1/chat/completions",
                      R"({"messages":[{"role":"user","content":"Hi"}],"max_tokens":1,"parallel_tool_calls":true})"),
              "parallel_tool_calls");
    EXPECT_EQ(
        ignored("/api/v1/generate",
                R"({"prompt":"Hi","max_length":1,"nsigma":2,"guidance_scale":1.5,"min_length":1,"sampler_order":[6]})"),
        "nsigma, guidance_scale, min_length, sampler_order");
}

TEST(Dialects, RoutesHaveTheirOtherNamesAndTheNearestIsTold) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    auto client = served.client();
    for (const char* path : {"/api/v1/model/", "/api/latest/model", "/v1/models/", "/models", "/"}) {
        const auto answer = client.Get(path);
        EXPECT_TRUE(answer && answer->status == 200) << path;
    }
    for (const char* path : {"/api/v1/generate/", "/api/latest/generate", "/completions"}) {
        EXPECT_EQ(served.status(path, R"({"prompt":"Hi","max_length":1,"max_tokens":1})"), 200) << path;
    }
    Json answer;
    EXPECT_EQ(served.status("/v1/completion", "{}", &answer), 404);
    EXPECT_NE(answer["error"]["message"].get<std::string>().find("/v1/completions"), std::string::npos)
        << answer.dump();
    const std::string id = served.get("/v1/models")["data"][0]["id"];
    EXPECT_EQ(served.get("/v1/models/" + httplib::encode_uri_component(id))["id"], id);
    EXPECT_EQ(client.Get("/v1/models/other")->status, 404);
    std::string longer;
    for (int i = 0; i < 3000; ++i) longer += "a b ";
    EXPECT_EQ(served.status("/v1/completions", Json{{"prompt", longer}}.dump(), &answer), 400);
    EXPECT_EQ(answer["error"]["code"], "context_length_exceeded");
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
    EXPECT_EQ(served.status("/v1/completions", R"({"prompt":"x"})", &answer), 503);
    EXPECT_EQ(answer["error"]["code"], 503);
    served.post("/api/extra/abort", {{"genkey", "slow"}});
    first.get();
    EXPECT_EQ(second.get()["results"].size(), 1u); // the one that waited has its turn
}
