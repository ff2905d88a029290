// KoboldCPP's own routes before llama-server: what it is asked, and what comes back.
#include "llama_stand_in.h"
#include "raw_client.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

class KoboldBeforeLlama : public BeforeLlama {
protected:
    KoboldBeforeLlama() {}
};

TEST_F(KoboldBeforeLlama, AGenerationIsACompletionWithKoboldCppsDefaults) {
    httplib::Headers headers;
    const Json answer = Json::parse(
        post("/api/v1/generate",
             {{"prompt", "bc"}, {"memory", "a"}, {"max_length", 3}, {"top_k", -1}, {"tfs", 0.9}, {"nonsense", 1}}, 200,
             &headers));
    const Json& result = answer["results"][0];
    EXPECT_EQ(result["text"], "xxx");
    EXPECT_EQ(result["finish_reason"], "length");
    EXPECT_EQ(result["prompt_tokens"], 3);
    EXPECT_EQ(result["completion_tokens"], 3);
    EXPECT_FALSE(answer.contains("attention"));
    const auto ignored = headers.find("X-Ignored-Fields");
    ASSERT_NE(ignored, headers.end());
    EXPECT_EQ(ignored->second, "tfs, nonsense");
    const Json sent = program.last_body();
    EXPECT_EQ(sent["prompt"], Json({97, 98, 99}));
    EXPECT_FALSE(sent.contains("id_slot")); // nobody asks for attention
    const Json expected = {{"n_predict", 3},      {"temperature", 0.7},    {"top_k", 0},
                           {"top_p", 0.92},       {"typical_p", 1},        {"min_p", 0},
                           {"seed", -1},          {"repeat_penalty", 1},   {"repeat_last_n", 64},
                           {"mirostat_tau", 5},   {"dry_base", 1.75},      {"dry_penalty_last_n", 64},
                           {"ignore_eos", false}, {"stop", Json::array()}, {"cache_prompt", true}};
    for (const auto& [name, value] : expected.items()) EXPECT_EQ(sent[name], value) << name;
}

TEST_F(KoboldBeforeLlama, FieldsHaveTheNamesOfTheProgram) {
    const Json body = {
        {"input_ids", {97, 98}},
        {"max_length", 2},
        {"rep_pen", 1.1},
        {"rep_pen_range", 12},
        {"typical", 0.9},
        {"sampler_seed", 17},
        {"stop_sequence", {"\n"}},
        {"ban_eos_token", true},
        {"logit_bias", {{"5", -100}, {"6", 1.5}}},
        {"response_format",
         {{"type", "json_schema"}, {"json_schema", {{"schema", {{"type", "object"}, {"minProperties", 1}}}}}}}};
    httplib::Headers headers;
    post("/api/v1/generate", body, 200, &headers);
    const Json sent = program.last_body();
    EXPECT_EQ(sent["repeat_penalty"], 1.1);
    EXPECT_EQ(sent["repeat_last_n"], 12);
    EXPECT_EQ(sent["typical_p"], 0.9);
    EXPECT_EQ(sent["seed"], 17);
    EXPECT_EQ(sent["stop"], Json({"\n"}));
    EXPECT_EQ(sent["ignore_eos"], true);
    EXPECT_EQ(sent["logit_bias"], Json({{"5", false}, {"6", 1.5}})); // -100 forbids
    EXPECT_EQ(sent["json_schema"]["type"], "object");
    EXPECT_EQ(headers.find("X-Ignored-Fields")->second, "json_schema.minProperties");
    for (const Json& wrong : {Json{{"temperature", "hot"}}, Json{{"max_length", -5}}, Json{{"images", {"x"}}},
                              Json{{"n", 2}}, Json{{"grammar", "a"}, {"json_schema", {{"type", "object"}}}}}) {
        Json bad = {{"prompt", "a"}};
        bad.update(wrong);
        EXPECT_NE(post("/api/v1/generate", bad, 400).find("detail"), std::string::npos) << wrong.dump();
    }
}

TEST_F(KoboldBeforeLlama, AWholeAnswerHasTheRowsOfItsTokensAndOfThePrompt) {
    const Json all =
        Json::parse(post("/api/v1/generate", {{"prompt", "abcd"},
                                              {"max_length", 3},
                                              {"logprobs", true},
                                              {"attention", {{"prompt_rows", true}, {"accumulate", "total"}}}}));
    ASSERT_EQ(all["attention"].size(), 3u);
    ASSERT_EQ(all["prompt_attention"].size(), 3u);
    for (size_t i = 0; i < 3; ++i) expect_row(all["attention"][i], 3 + i);
    for (size_t i = 0; i < 3; ++i) expect_row(all["prompt_attention"][i], i);
    EXPECT_EQ(all["scores"]["rows"], 6);
    EXPECT_EQ(all["reused"], 0);
    EXPECT_EQ(program.last_body()["id_slot"], 1);
    EXPECT_EQ(program.last_body()["n_probs"], 5);
    const Json& told = all["results"][0]["logprobs"]["content"];
    ASSERT_EQ(told.size(), 3u);
    EXPECT_EQ(told[0]["logprob"], -0.5);
    EXPECT_EQ(told[0]["top_logprobs"][0]["logprob"], -9999); // of a probability of 0
    EXPECT_FALSE(told[0].contains("id"));
}

TEST_F(KoboldBeforeLlama, StreamsAreKoboldCppsWithAttentionAndWithout) {
    auto all = events(post("/api/extra/generate/stream", {{"prompt", "abc"}, {"max_length", 2}, {"logprobs", true}}));
    ASSERT_EQ(all.size(), 3u);
    EXPECT_EQ(all[0], (Json{{"token", "x"}, {"finish_reason", nullptr}}));
    EXPECT_EQ(all[2], (Json{{"token", ""}, {"finish_reason", "length"}}));
    EXPECT_FALSE(program.last_body().contains("n_probs")); // an event has no place for them
    all = events(post("/api/extra/generate/stream",
                      {{"prompt", "abc"}, {"max_length", 2}, {"attention", {{"accumulate", "last"}}}}));
    ASSERT_EQ(all.size(), 3u);
    for (size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(all[i]["token"], "x");
        expect_row(all[i]["attention"], 2 + i);
    }
    EXPECT_EQ(all[2]["summary"]["total_tokens"], 2);
    EXPECT_EQ(all[2]["summary"]["scores"]["rows"], 2);
}

TEST_F(KoboldBeforeLlama, TheStopSequenceIsPartOfTheTextWhereItIsNotTrimmed) {
    program.stopping_word = "END";
    Json body = {{"prompt", "abc"}, {"max_length", 2}, {"stop_sequence", {"END"}}};
    EXPECT_EQ(Json::parse(post("/api/v1/generate", body))["results"][0]["text"], "xx");
    body["trim_stop"] = false;
    const Json result = Json::parse(post("/api/v1/generate", body))["results"][0];
    EXPECT_EQ(result["text"], "xxEND");
    EXPECT_EQ(result["finish_reason"], "stop");
    EXPECT_EQ(events(post("/api/extra/generate/stream", body)).back(),
              (Json{{"token", "END"}, {"finish_reason", "stop"}}));
}

TEST_F(KoboldBeforeLlama, ATextThatIsTooLongLosesItsBeginningButNotWhereAttentionIsAsked) {
    const std::string text = "a" + std::string(69, 'b') + std::string(30, 'c');
    Json body = {{"prompt", text}, {"max_length", 40}};
    post("/api/v1/generate", body);
    Json sent = program.last_body();
    ASSERT_EQ(sent["prompt"].size(), 32u);  // half of the context is for the answer
    EXPECT_EQ(sent["prompt"][0], int('a')); // which begins every text of this model
    EXPECT_EQ(sent["prompt"][1], int('b'));
    EXPECT_EQ(sent["prompt"][2], int('c'));
    EXPECT_EQ(sent["n_predict"], 32);
    body["max_context_length"] = 16;
    post("/api/v1/generate", body);
    EXPECT_EQ(program.last_body()["prompt"].size(), 8u);
    body["attention"] = Json::object();
    EXPECT_NE(post("/api/v1/generate", body, 400).find("fit into the context of"), std::string::npos);
}

TEST_F(KoboldBeforeLlama, AnAnswerIsLookedAtAndEndedByItsName) {
    program.pace_ms = 20;
    std::string whole;
    std::thread client([&] {
        whole = post("/api/v1/generate", {{"prompt", "abc"}, {"max_length", 60}, {"genkey", "K"}});
    });
    const auto text = [&](const std::string& key) {
        return Json::parse(post("/api/extra/generate/check", {{"genkey", key}}))["results"][0]["text"]
            .get<std::string>();
    };
    EXPECT_TRUE(soon([&] { return text("K").size() >= 2; }));
    EXPECT_EQ(text("other"), "");
    EXPECT_EQ(text(""), ""); // it has a name: nobody else sees it
    EXPECT_EQ(get("/api/extra/generate/check")["results"][0]["text"], "");
    EXPECT_EQ(Json::parse(post("/api/extra/abort", {{"genkey", "other"}}))["success"], "false");
    EXPECT_EQ(get("/api/extra/perf")["idle"], 0);
    EXPECT_EQ(Json::parse(post("/api/extra/abort", {{"genkey", "K"}}))["success"], "true");
    client.join();
    const Json result = Json::parse(whole)["results"][0];
    EXPECT_EQ(result["finish_reason"], "abort");
    EXPECT_GE(result["text"].get<std::string>().size(), 2u);
    EXPECT_LT(result["text"].get<std::string>().size(), 60u);
    EXPECT_TRUE(soon([&] { return program.broke_off.load(); })); // the program ends it, too
    EXPECT_EQ(text("K"), result["text"]);                        // known by its name afterwards
    EXPECT_EQ(Json::parse(post("/api/extra/abort", {{"genkey", "K"}}))["success"], "false");
}

TEST_F(KoboldBeforeLlama, WithoutANameTheOnlyOneEnds) {
    program.pace_ms = 20;
    std::vector<Json> all;
    std::thread client([&] {
        all =
            events(post("/api/extra/generate/stream",
                        {{"prompt", "abc"}, {"max_length", 60}, {"output_attentions", "aggregated"}, {"genkey", "K"}}));
    });
    EXPECT_TRUE(soon([&] {
        return Json::parse(post("/api/extra/generate/check", {{"genkey", "K"}}))["results"][0]["text"] != "";
    }));
    EXPECT_EQ(Json::parse(post("/api/extra/abort", Json::object()))["success"], "true");
    client.join();
    ASSERT_FALSE(all.empty());
    EXPECT_EQ(all.back()["type"], "done");
    EXPECT_EQ(all.back()["finish_reason"], "aborted");
    EXPECT_EQ(all.back()["total_tokens"], all.size() - 1);
}

TEST_F(KoboldBeforeLlama, AnAnswerThatBreaksOffIsAnError) {
    program.breaks = true;
    EXPECT_NE(post("/api/v1/generate", {{"prompt", "abc"}, {"max_length", 2}}, 500).find("broke off"),
              std::string::npos);
    const auto all = events(post("/api/extra/generate/stream",
                                 {{"prompt", "abc"}, {"max_length", 2}, {"output_attentions", "aggregated"}}));
    EXPECT_EQ(all.back()["type"], "error");
}

TEST_F(KoboldBeforeLlama, TokensAndVersionsAreTold) {
    EXPECT_EQ(Json::parse(post("/api/extra/tokencount", {{"prompt", "ab"}})), (Json{{"value", 2}, {"ids", {97, 98}}}));
    EXPECT_EQ(Json::parse(post("/api/extra/detokenize", {{"ids", {97, 98}}})),
              (Json{{"result", "ab"}, {"success", true}}));
    EXPECT_EQ(Json::parse(post("/api/extra/detokenize", {{"ids", Json::array()}}))["result"], "");
    EXPECT_EQ(get("/api/extra/version")["result"], "KoboldCpp");
    EXPECT_EQ(get("/api/extra/version")["protected"], false);
    EXPECT_EQ(get("/api/v1/info/version")["result"], "1.2.5");
    EXPECT_EQ(get("/api/latest/info/version")["result"], "1.2.5");
    EXPECT_EQ(get("/api/extra/true_max_context_length")["value"], 64);
    EXPECT_EQ(get("/api/v1/config/max_context_length")["value"], 64);
    EXPECT_EQ(get("/api/v1/config/max_length")["value"], 32);
    post("/api/v1/generate", {{"prompt", "abc"}, {"max_length", 4}});
    const Json perf = get("/api/extra/perf");
    EXPECT_EQ(perf["total_gens"], 1);
    EXPECT_EQ(perf["last_token_count"], 4);
    EXPECT_EQ(perf["last_input_count"], 3);
    EXPECT_EQ(perf["last_seed"], 4711);
    EXPECT_EQ(perf["stop_reason"], 0);
    EXPECT_EQ(perf["last_eval"], 2.0);
    EXPECT_EQ(perf["last_eval_speed"], 2.0);
    EXPECT_EQ(perf["last_process_speed"], 4.0); // two tokens that were not there, in half a second
}

// A program that says that it is KoboldCPP answers all of it itself.
TEST(KoboldBeforeKobold, EverythingPasses) {
    httplib::Server http;
    http.Get("/api/extra/version", [](const auto&, httplib::Response& a) {
        a.set_content(R"({"result":"KoboldCpp","version":"1.99"})", "application/json");
    });
    const auto own = [](const httplib::Request& q, httplib::Response& a) {
        a.set_content(Json{{"own", q.path}, {"body", q.body}}.dump(), "application/json");
    };
    http.Get(".*", own);
    http.Post(".*", own);
    const int port = http.bind_to_any_port("127.0.0.1");
    std::thread thread([&] { http.listen_after_bind(); });
    http.wait_until_ready();
    LiveSequences live;
    FrontOptions options;
    options.server.port = 0;
    options.to.port = port;
    {
        auto front = Front::start(options, live);
        ASSERT_TRUE(front);
        httplib::Client client("127.0.0.1", (*front)->port());
        for (const char* path : {"/api/v1/generate", "/api/extra/generate/stream", "/api/extra/generate/check",
                                 "/api/extra/abort", "/api/extra/tokencount", "/api/extra/detokenize"}) {
            const auto answer = client.Post(path, R"({"prompt":"a", "genkey":"x"})", "application/json");
            ASSERT_TRUE(answer);
            EXPECT_EQ(Json::parse(answer->body)["own"], path);
            EXPECT_EQ(Json::parse(answer->body)["body"], R"({"prompt":"a", "genkey":"x"})");
        }
        EXPECT_EQ(Json::parse(client.Get("/api/extra/version")->body)["version"], "1.99");
        for (const char* path : {"/api/extra/perf", "/api/v1/info/version", "/api/extra/true_max_context_length",
                                 "/api/v1/config/max_length"})
            EXPECT_EQ(Json::parse(client.Get(path)->body)["own"], path);
        // What it would ignore in silence is refused.
        EXPECT_EQ(client.Post("/api/v1/generate", R"({"prompt":"a","attention":{}})", "application/json")->status, 501);
    }
    http.stop();
    thread.join();
}

TEST(KoboldBeforeKobold, AStreamForVersion10HasNoChunks) {
    httplib::Server http;
    http.Get("/api/extra/version", [](const auto&, httplib::Response& a) {
        a.set_content(R"({"result":"KoboldCpp","version":"1.99"})", "application/json");
    });
    http.Post("/api/extra/tokencount", [](const auto&, httplib::Response& a) {
        a.set_content(R"({"value":1,"ids":[97]})", "application/json");
    });
    http.Post("/api/extra/generate/stream", [](const auto&, httplib::Response& a) {
        a.set_content("event: message\ndata: {\"token\":\"x\",\"finish_reason\":\"length\"}\n\n", "text/event-stream");
    });
    FrontOptions options;
    options.server.port = 0;
    options.to.port = http.bind_to_any_port("127.0.0.1");
    std::thread program([&] { http.listen_after_bind(); });
    http.wait_until_ready();
    LiveSequences live;
    std::atomic<bool> done{false};
    std::thread reader([&] {
        while (!done) live.all_taken(std::chrono::milliseconds(1));
    });
    {
        auto front = Front::start(options, live);
        ASSERT_TRUE(front);
        const std::string body = R"({"prompt":"a","output_attentions":true})";
        RawClient old((*front)->port());
        EXPECT_TRUE(old.say("POST /api/extra/generate/stream HTTP/1.0\r\nContent-Length: " +
                            std::to_string(body.size()) + "\r\n\r\n" + body));
        const std::string heard = old.hear();
        EXPECT_EQ(heard.find("chunked"), std::string::npos) << heard;
        EXPECT_NE(heard.find("\r\n\r\nevent: message\ndata: "), std::string::npos) << heard;
        EXPECT_TRUE(heard.ends_with("}\n\n")) << heard;
    }
    http.stop();
    program.join();
    done = true;
    reader.join();
}

} // namespace
