// Fields that say what an answer may be: grammars, schemas, biases, probabilities, several answers.
#include "served_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <set>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr const char* prompt = "The capital of France is";
constexpr const char* yes_or_no = R"(root ::= " yes" | " no")";

Json completion(Json more, int n = 8) {
    Json body = {{"prompt", prompt}, {"max_tokens", n}, {"temperature", 0}};
    if (more.is_object()) body.update(more);
    return body;
}

Json chat(Json more, int n = 64) {
    Json body = {
        {"messages", {{{"role", "user"}, {"content", "Name a city."}}}}, {"max_tokens", n}, {"temperature", 0}};
    if (more.is_object()) body.update(more);
    return body;
}

bool is_yes_or_no(const Json& text) {
    return text == " yes" || text == " no";
}

std::string refusal(const ServedModel& served, const std::string& path, const Json& body) {
    Json answer;
    EXPECT_EQ(served.status(path, body.dump(), &answer), 400) << body.dump().substr(0, 200);
    return path.rfind("/api/", 0) == 0 ? answer["detail"]["msg"] : answer["error"]["message"];
}

} // namespace

TEST(OutputFields, AGrammarForcesTheAnswerOnEveryRoute) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json whole = served.post("/v1/completions", completion({{"grammar", yes_or_no}}));
    EXPECT_TRUE(is_yes_or_no(whole["choices"][0]["text"])) << whole.dump();
    EXPECT_EQ(whole["choices"][0]["finish_reason"], "stop");
    EXPECT_TRUE(is_yes_or_no(
        served.post("/v1/chat/completions", chat({{"grammar", yes_or_no}}))["choices"][0]["message"]["content"]));
    EXPECT_TRUE(is_yes_or_no(served.post("/completion", {{"prompt", prompt}, {"grammar", yes_or_no}})["content"]));
    EXPECT_TRUE(is_yes_or_no(
        served.post("/api/v1/generate", {{"prompt", prompt}, {"grammar", yes_or_no}})["results"][0]["text"]));
    std::string streamed;
    for (const Json& e : served.events("/v1/completions", completion({{"grammar", yes_or_no}, {"stream", true}}))) {
        if (e.is_object()) streamed += e["choices"][0].value("text", "");
    }
    EXPECT_TRUE(is_yes_or_no(streamed)) << streamed;
    // with attention beside it, one row a token
    const Json rows = served.post(
        "/completion",
        {{"prompt", prompt}, {"grammar", yes_or_no}, {"return_tokens", true}, {"attention", {{"reduce", "mean"}}}});
    EXPECT_EQ(rows["attention"].size(), rows["tokens"].size());
}

TEST(OutputFields, AJsonAnswerFollowsItsSchemaInItsOrder) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const auto ordered = [](const std::string& text) { return nlohmann::ordered_json::parse(text, nullptr, false); };
    const std::string schema =
        R"({"type":"object","properties":{"town":{"enum":["Paris","Rome"]},"big":{"type":"boolean"},"age":{"type":"integer","maximum":99,"minimum":0}},
            "required":["town","big","age"],"additionalProperties":false})";
    const std::vector<std::pair<std::string, std::string>> asked = {
        {"/v1/chat/completions",
         R"({"seed":1,"max_tokens":200,"messages":[{"role":"user","content":"A city."}],"response_format":{"type":"json_schema","json_schema":{"name":"c","strict":true,"schema":)" +
             schema + "}}}"},
        {"/v1/completions", R"({"seed":1,"max_tokens":200,"prompt":"A city:","json_schema":)" + schema + "}"},
        {"/completion", R"({"seed":1,"n_predict":200,"prompt":"A city:","json_schema":)" + schema + "}"},
        {"/v1/chat/completions",
         R"({"seed":1,"max_tokens":200,"messages":[{"role":"user","content":"A city."}],"response_format":{"type":"json_object","schema":)" +
             schema + "}}"}};
    for (const auto& [path, body] : asked) {
        Json answer;
        ASSERT_EQ(served.status(path, body, &answer), 200) << answer.dump();
        const std::string text = answer.contains("content")              ? answer["content"]
                                 : answer["choices"][0].contains("text") ? answer["choices"][0]["text"]
                                                                         : answer["choices"][0]["message"]["content"];
        const auto city = ordered(text);
        ASSERT_TRUE(city.is_object() && city.size() == 3) << text;
        EXPECT_EQ(city.begin().key(), "town") << text; // as asked, not by the alphabet
        EXPECT_TRUE(city["big"].is_boolean() && city["age"].is_number_integer()) << text;
    }
    const Json object =
        served.post("/v1/chat/completions", chat({{"seed", 1}, {"response_format", {{"type", "json_object"}}}}, 200));
    const Json& one = object["choices"][0];
    if (one["finish_reason"] == "stop") {
        EXPECT_TRUE(ordered(one["message"]["content"]).is_object()) << one.dump();
    }
    EXPECT_EQ(one["message"]["content"].get<std::string>().front(), '{');
    // what the engine's converter passes over is told, as a property of that name is not
    const auto told = served.client().Post(
        "/v1/completions",
        R"({"prompt":"a","max_tokens":1,"json_schema":{"properties":{"not":{"type":"array","uniqueItems":true,"items":{}}}}})",
        "application/json");
    ASSERT_TRUE(told && told->status == 200) << (told ? told->body : "");
    EXPECT_EQ(told->get_header_value("X-Ignored-Fields"), "json_schema.uniqueItems");
    const Json text = served.post("/v1/chat/completions", chat({{"response_format", {{"type", "text"}}}}, 2));
    EXPECT_EQ(text["choices"].size(), 1u);
}

TEST(OutputFields, GrammarsAndSchemasThatCannotBeAreRefusedWithTheReason) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const std::vector<std::pair<Json, std::string>> bad = {
        {{{"grammar", "root ::= \"a"}}, "cannot be read"},
        {{{"grammar", "root ::= root \"a\" | \"b\""}}, "left recursion"},
        {{{"grammar", "root ::= nothing"}}, "'nothing'"},
        {{{"grammar", 5}}, "\"grammar\""},
        {{{"grammar", std::string(2 << 20, 'x')}}, "\"grammar\""},
        {{{"grammar", yes_or_no}, {"json_schema", {{"type", "object"}}}}, "not several"},
        {{{"json_schema", {{"type", "object"}}}, {"response_format", {{"type", "json_object"}}}}, "not several"},
        {{{"json_schema", "{}"}}, "must be an object"},
        {{{"json_schema", {{"type", "nonsense"}}}}, "JSON schema"},
        {{{"json_schema", {{"$ref", "https://example.invalid/x"}}}}, "JSON schema"},
        {{{"response_format", "json"}}, "response_format"},
        {{{"response_format", {{"type", "xml"}}}}, "response_format"},
        {{{"response_format", {{"type", "json_schema"}}}}, "\"schema\""},
        {{{"response_format", {{"type", "json_schema"}, {"json_schema", {{"schema", 3}}}}}}, "must be an object"}};
    for (const auto& [fields, says] : bad) {
        EXPECT_NE(refusal(served, "/v1/completions", completion(fields)).find(says), std::string::npos)
            << fields.dump().substr(0, 200);
        EXPECT_NE(refusal(served, "/v1/chat/completions", chat(fields)).find(says), std::string::npos)
            << fields.dump().substr(0, 200);
    }
    EXPECT_NE(refusal(served, "/api/v1/generate", {{"prompt", "a"}, {"grammar", "root ::= ("}}), "");
    // begins well and then comes to nothing
    const std::string dead_end = R"(root ::= " yes" [\U00300000])";
    EXPECT_NE(
        refusal(served, "/v1/completions", completion({{"grammar", dead_end}})).find("no token of the vocabulary fits"),
        std::string::npos);
    EXPECT_EQ(served.post("/v1/completions", completion({}, 2))["choices"].size(), 1u); // and it still serves
}

TEST(OutputFields, ABiasForbidsAndForcesInAllItsForms) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const auto text = [&](const Json& bias) {
        return served.post("/v1/completions", completion({{"logit_bias", bias}}, 1))["choices"][0]["text"]
            .get<std::string>();
    };
    const std::string plain = text(nullptr);
    const Json ids = served.post("/tokenize", {{"content", plain}})["tokens"];
    ASSERT_EQ(ids.size(), 1u);
    const int32_t id = ids[0];
    const int32_t other = served.post("/tokenize", {{"content", " zebra"}})["tokens"][0];
    for (const Json& forbids :
         {Json{{std::to_string(id), -100}}, Json{{std::to_string(id), false}}, Json{{plain, false}},
          Json::array({{id, false}}), Json::array({{id, -100.0}}), Json::array({{plain, false}})}) {
        EXPECT_NE(text(forbids), plain) << forbids.dump();
    }
    const std::string zebra = served.post("/detokenize", {{"tokens", {other}}})["content"];
    for (const Json& forces : {Json{{std::to_string(other), 100}}, Json::array({{other, 100}}), Json{{zebra, 1000}}}) {
        EXPECT_EQ(text(forces), zebra) << forces.dump();
    }
    EXPECT_EQ(text(Json::object()), plain);
    EXPECT_EQ(text(Json::array()), plain);
    for (const Json& wrong :
         {Json(3), Json("5"), Json{{"5", "much"}}, Json{{"5", true}}, Json{{"99999999", 1}}, Json{{"-1", 1}},
          Json{{"", 1}}, Json::array({5}), Json::array({{5}}), Json::array({{5, 1, 2}}), Json::array({{1.5, 1}}),
          Json::array({{nullptr, 1}}), Json::array({{-1, 1}}), Json::array({{uint64_t(1) << 63, 1}}),
          Json{{"99999999999999999999999", 1}}}) {
        EXPECT_NE(refusal(served, "/v1/completions", completion({{"logit_bias", wrong}})).find("logit_bias"),
                  std::string::npos)
            << wrong.dump();
    }
}

TEST(OutputFields, ProbabilitiesComeInTheShapeOfEachRoute) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const Json answer = served.post("/v1/completions", completion({{"logprobs", 3}}, 4))["choices"][0];
    const Json& legacy = answer["logprobs"];
    std::string joined;
    for (const Json& t : legacy["tokens"]) joined += t.get<std::string>();
    EXPECT_EQ(Json(joined), answer["text"]);
    ASSERT_EQ(legacy["token_logprobs"].size(), 4u);
    EXPECT_EQ(legacy["text_offset"][0], 0);
    EXPECT_EQ(legacy["text_offset"][1], legacy["tokens"][0].get<std::string>().size());
    for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(legacy["top_logprobs"][i].size(), 3u);
        double best = -INFINITY;
        for (const auto& [token, logprob] : legacy["top_logprobs"][i].items())
            best = std::max(best, logprob.get<double>());
        EXPECT_EQ(legacy["token_logprobs"][i], best); // greedy takes the most probable one
        EXPECT_LE(best, 0);
    }
    EXPECT_EQ(
        served.post("/v1/completions", completion({{"logprobs", 0}}, 2))["choices"][0]["logprobs"]["token_logprobs"]
            .size(),
        2u);
    EXPECT_TRUE(served.post("/v1/completions", completion({}, 1))["choices"][0]["logprobs"].is_null());

    const Json told =
        served.post("/completion", {{"prompt", prompt}, {"n_predict", 4}, {"temperature", 0}, {"n_probs", 3}});
    const Json& llama = told["completion_probabilities"];
    ASSERT_EQ(llama.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
        EXPECT_NEAR(llama[i]["logprob"].get<double>(), legacy["token_logprobs"][i].get<double>(), 1e-2);
        EXPECT_EQ(llama[i]["top_logprobs"][0]["id"], llama[i]["id"]);
        EXPECT_EQ(llama[i]["top_logprobs"].size(), 3u);
    }
    const Json said =
        served.post("/v1/chat/completions", chat({{"logprobs", true}, {"top_logprobs", 2}}, 5))["choices"][0];
    ASSERT_EQ(said["logprobs"]["content"].size(), 5u);
    std::string bytes;
    for (const Json& t : said["logprobs"]["content"]) {
        EXPECT_EQ(t["top_logprobs"].size(), 2u);
        for (const int b : t["bytes"]) bytes += static_cast<char>(b);
    }
    EXPECT_EQ(bytes, said["message"]["content"]);
    const Json kobold = served.post("/api/v1/generate",
                                    {{"prompt", prompt}, {"max_length", 3}, {"temperature", 0}, {"logprobs", true}});
    EXPECT_EQ(kobold["results"][0]["logprobs"]["content"].size(), 3u);
    for (const Json& wrong :
         {Json{{"logprobs", -1}}, Json{{"logprobs", 1001}}, Json{{"logprobs", true}}, Json{{"n_probs", "a"}},
          Json{{"post_sampling_probs", true}}, Json{{"logprobs", 1}, {"echo", true}}}) {
        refusal(served, "/v1/completions", completion(wrong));
    }
    refusal(served, "/v1/chat/completions", chat({{"top_logprobs", 2}}));
    refusal(served, "/v1/chat/completions", chat({{"logprobs", 2.5}}));
}

TEST(OutputFields, AStreamTellsTheSameProbabilitiesAndNoneOfAStopSequence) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const Json body = completion({{"logprobs", 1}}, 10);
    const Json whole = served.post("/v1/completions", body)["choices"][0];
    const auto streamed = [&](Json b) {
        b["stream"] = true;
        Json logprobs = Json::array();
        for (const Json& e : served.events("/v1/completions", b)) {
            if (!e.is_object() || e["choices"].empty() || e["choices"][0]["logprobs"].is_null()) continue;
            for (const Json& l : e["choices"][0]["logprobs"]["token_logprobs"]) logprobs.push_back(l);
        }
        return logprobs;
    };
    const Json all = streamed(body);
    ASSERT_EQ(all.size(), 10u);
    for (size_t i = 0; i < 10; ++i)
        EXPECT_NEAR(all[i].get<double>(), whole["logprobs"]["token_logprobs"][i].get<double>(), 1e-2);
    Json stopping = body;
    const std::string third = whole["logprobs"]["tokens"][3], fourth = whole["logprobs"]["tokens"][4];
    stopping["stop"] = third + fourth; // held back until it is decided
    const Json stopped = served.post("/v1/completions", stopping)["choices"][0];
    const size_t n = stopped["logprobs"]["tokens"].size();
    std::string joined;
    for (const Json& t : stopped["logprobs"]["tokens"]) joined += t.get<std::string>();
    EXPECT_EQ(Json(joined), stopped["text"]);
    EXPECT_LE(n, 3u);
    EXPECT_EQ(streamed(stopping).size(), n);
}

TEST(OutputFields, SeveralAnswersComeWithTheirIndex) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    Json body = {{"prompt", prompt}, {"max_tokens", 6}, {"temperature", 1.2},
                 {"seed", 7},        {"n", 3},          {"ignore_eos", true}};
    served.post("/v1/completions",
                completion({}, 1)); // the prompt is read before all of them, or the first would round otherwise
    const Json whole = served.post("/v1/completions", body);
    ASSERT_EQ(whole["choices"].size(), 3u);
    EXPECT_EQ(whole["usage"]["completion_tokens"], 18);
    std::set<std::string> texts;
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(whole["choices"][i]["index"], i);
        texts.insert(whole["choices"][i]["text"]);
        Json one = body; // what it would be alone
        one.erase("n");
        one["seed"] = 7 + i;
        EXPECT_EQ(served.post("/v1/completions", one)["choices"][0]["text"], whole["choices"][i]["text"]) << i;
    }
    EXPECT_GT(texts.size(), 1u);
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
    std::vector<std::string> streamed(3);
    int ends = 0, usages = 0;
    const auto events = served.events("/v1/completions", body);
    for (const Json& e : events) {
        if (!e.is_object()) continue;
        if (e.contains("usage")) {
            ++usages;
            EXPECT_EQ(e["usage"]["completion_tokens"], 18);
            continue;
        }
        const Json& c = e["choices"][0];
        streamed[c["index"].get<size_t>()] += c["text"].get<std::string>();
        ends += !c["finish_reason"].is_null();
    }
    for (int i = 0; i < 3; ++i) EXPECT_EQ(streamed[size_t(i)], whole["choices"][i]["text"]);
    EXPECT_EQ(ends, 3);
    EXPECT_EQ(usages, 1);
    EXPECT_EQ(events.back(), "[DONE]");
    const Json chats = served.post("/v1/chat/completions", chat({{"n", 2}, {"temperature", 1}}, 3));
    EXPECT_EQ(chats["choices"][1]["message"]["role"], "assistant");

    Json best = body;
    best.erase("stream");
    best.erase("stream_options");
    best["n"] = 1;
    best["best_of"] = 3;
    best["logprobs"] = 0;
    const Json chosen = served.post("/v1/completions", best);
    ASSERT_EQ(chosen["choices"].size(), 1u);
    Json several = best;
    several.erase("best_of");
    several["n"] = 3;
    const Json all_of_them = served.post("/v1/completions", several)["choices"];
    const auto mean = [](const Json& c) {
        double sum = 0;
        for (const Json& l : c["logprobs"]["token_logprobs"]) sum += l.get<double>();
        return sum / static_cast<double>(c["logprobs"]["token_logprobs"].size());
    };
    double most = -INFINITY;
    for (const Json& c : all_of_them) most = std::max(most, mean(c));
    EXPECT_NEAR(mean(chosen["choices"][0]), most, 1e-2);
    EXPECT_EQ(chosen["usage"]["completion_tokens"], 18);
    for (const Json& wrong :
         {Json{{"n", 0}}, Json{{"n", 33}}, Json{{"n", -1}}, Json{{"n", 1.5}}, Json{{"n", 3}, {"best_of", 2}},
          Json{{"best_of", 2}, {"stream", true}}, Json{{"n", 2}, {"attention", {{"reduce", "mean"}}}},
          Json{{"best_of", 2}, {"output_hidden_states", true}}}) {
        refusal(served, "/v1/completions", completion(wrong));
    }
    refusal(served, "/v1/chat/completions", chat({{"best_of", 2}}));
    refusal(served, "/completion", {{"prompt", "a"}, {"n", 2}});
    refusal(served, "/api/v1/generate", {{"prompt", "a"}, {"n", 2}});
}

TEST(OutputFields, AnEchoBeginsEachChoice) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string plain = served.post("/v1/completions", completion({}))["choices"][0]["text"];
    EXPECT_EQ(served.post("/v1/completions", completion({{"echo", true}}))["choices"][0]["text"], prompt + plain);
    const Json ids = served.post("/tokenize", {{"content", prompt}, {"add_special", true}})["tokens"];
    EXPECT_EQ(served.post("/v1/completions", completion({{"echo", true}, {"prompt", ids}}))["choices"][0]["text"],
              prompt + plain);
    for (const int n : {8, 0}) {
        std::vector<std::string> streamed(2);
        for (const Json& e :
             served.events("/v1/completions", completion({{"echo", true}, {"stream", true}, {"n", 2}}, n))) {
            if (e.is_object())
                streamed[e["choices"][0]["index"].get<size_t>()] += e["choices"][0]["text"].get<std::string>();
        }
        EXPECT_EQ(streamed[0], n ? prompt + plain : prompt);
        EXPECT_EQ(streamed[1], streamed[0]);
    }
    refusal(served, "/v1/chat/completions", chat({{"echo", true}}));
}

TEST(OutputFields, WhoLeavesEndsAllHisAnswers) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    Json body = completion({{"n", 8}, {"stream", true}, {"ignore_eos", true}}, 900);
    int seen = 0;
    served.stream("/v1/completions", body, [&](const Json&) { return ++seen < 3; });
    EXPECT_TRUE(served.idle_within(10));
    auto client = served.client();
    client.set_read_timeout(1);
    body.erase("stream");
    client.Post("/v1/completions", body.dump(), "application/json");
    const auto waiting = [&] { return served.get("/api/extra/perf")["queue"].get<int>(); };
    for (int i = 0; i < 500 && waiting() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(waiting(), 0);
    EXPECT_TRUE(served.idle_within(10));
}
