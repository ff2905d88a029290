// Attention in front of llama-server, which is here a stand-in that decodes random queries and keys: what it is asked, what comes back,
// and that each row is the one of the token beside it.
#include "llama_stand_in.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

class LlamaFront : public BeforeLlama {
protected:
    LlamaFront()
        : BeforeLlama([this](FrontOptions& o) { o.server.log = [this](const std::string& s) { told += s; }; }) {}
    std::string told;
};

TEST_F(LlamaFront, EachEventOfAStreamHasTheRowsOfItsToken) {
    const auto all = events(post(
        "/completion",
        {{"prompt", "abc"}, {"n_predict", 4}, {"stream", true}, {"attention", Json::object()}, {"temperature", 0.5}}));
    ASSERT_EQ(all.size(), 5u);
    for (size_t i = 0; i < 4; ++i) expect_row(all[i]["attention"], 2 + i);
    EXPECT_EQ(all[4]["summary"]["reused"], 0);
    const Json sent = program.last_body();
    EXPECT_EQ(sent["id_slot"], 1); // the one at rest
    EXPECT_FALSE(sent.contains("attention"));
    EXPECT_EQ(sent["temperature"], 0.5);
    EXPECT_EQ(sent["return_tokens"], true);
}

TEST_F(LlamaFront, ATokenWithoutAnEventHasOneOfItsOwn) {
    program.skipped_token = 1;
    const auto all = events(
        post("/completion", {{"prompt", "abc"}, {"n_predict", 3}, {"stream", true}, {"attention", Json::object()}}));
    ASSERT_EQ(all.size(), 4u);
    for (size_t i = 0; i < 3; ++i) expect_row(all[i]["attention"], 2 + i);
    EXPECT_EQ(all[1]["content"], "");
}

TEST_F(LlamaFront, AWholeAnswerHasAllRowsAndThoseOfThePrompt) {
    const Json all =
        Json::parse(post("/completion", {{"prompt", {97, 98, 99, 100}},
                                         {"n_predict", 3},
                                         {"attention", {{"prompt_rows", true}, {"accumulate", "total"}}}}));
    ASSERT_EQ(all["attention"].size(), 3u);
    ASSERT_EQ(all["prompt_attention"].size(), 3u);
    for (size_t i = 0; i < 3; ++i) expect_row(all["attention"][i], 3 + i);
    for (size_t i = 0; i < 3; ++i) expect_row(all["prompt_attention"][i], i);
    EXPECT_EQ(all["scores"]["rows"], 6);
    EXPECT_EQ(all["tokens"], Json::array()); // nobody asked for them
}

TEST_F(LlamaFront, ChatsAreCountedByTimingsThatNobodySees) {
    const Json body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}},
                       {"max_tokens", 3},
                       {"stream", true},
                       {"attention", Json::object()}};
    const std::string text = post("/v1/chat/completions", body);
    const auto all = events(text);
    ASSERT_EQ(all.size(), 5u);
    EXPECT_FALSE(all[0].contains("attention"));
    for (size_t i = 0; i < 3; ++i) {
        expect_row(all[1 + i]["attention"], 3 + i);
        EXPECT_FALSE(all[1 + i].contains("timings"));
    }
    EXPECT_TRUE(all[4].contains("timings"));
    EXPECT_NE(text.find("data: [DONE]"), std::string::npos);
    Json whole = body;
    whole["stream"] = false;
    const Json answer = Json::parse(post("/v1/chat/completions", whole));
    ASSERT_EQ(answer["attention"].size(), 3u);
    for (size_t i = 0; i < 3; ++i) expect_row(answer["attention"][i], 3 + i);
}

TEST_F(LlamaFront, WhatASlotOfAnotherRequestDecodedIsAnError) {
    program.wrong_slot = true;
    const auto all = events(
        post("/completion", {{"prompt", "abc"}, {"n_predict", 2}, {"stream", true}, {"attention", Json::object()}}));
    ASSERT_EQ(all.size(), 3u);
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(all[i]["attention"].contains("error"));
}

// In a whole answer it is told once, not for each token.
TEST_F(LlamaFront, WhyAWholeAnswerHasNoRowsIsToldOnce) {
    program.wrong_slot = true;
    const Json attention = {{"reduce", "mean"}};
    const Json chat = {
        {"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"max_tokens", 3}, {"attention", attention}};
    for (const Json& all :
         {Json::parse(post("/completion", {{"prompt", "abc"}, {"n_predict", 3}, {"attention", attention}})),
          Json::parse(post("/v1/chat/completions", chat)),
          Json::parse(post("/api/v1/generate", {{"prompt", "abc"}, {"max_length", 3}, {"attention", attention}}))}) {
        ASSERT_TRUE(all["attention"].is_object()) << all.dump();
        EXPECT_NE(all["attention"]["error"].get<std::string>().find("decoded no text that begins with this prompt"),
                  std::string::npos);
    }
}

TEST_F(LlamaFront, ThatSlotsShareACacheIsWarnedOfOnceItIsSeen) {
    const Json body = {{"prompt", "abc"}, {"n_predict", 2}, {"stream", true}, {"attention", Json::object()}};
    program.one_cache = true;
    for (int i = 0; i < 3; ++i) post("/completion", body);
    EXPECT_NE(told.find("the slots share one cache"), std::string::npos) << told;
    EXPECT_EQ(told.find("warning", told.find("warning") + 1), std::string::npos) << told;
}

// As a smaller model that drafts for them has one of its own.
TEST_F(LlamaFront, OfSlotsThatAreToldApartNobodyIsWarned) {
    const Json body = {{"prompt", "abc"}, {"n_predict", 2}, {"stream", true}, {"attention", Json::object()}};
    post("/completion", body);
    program.one_cache = true;
    for (int i = 0; i < 2; ++i) post("/completion", body);
    EXPECT_EQ(told, "");
}

TEST_F(LlamaFront, TheModelsNameIsNoPath) {
    program.vocab_type = 1;
    for (const auto& [id, name] :
         {std::pair("/models/a/SmolLM2.gguf", "SmolLM2.gguf"), std::pair("models/b.gguf", "b.gguf"),
          std::pair("org/name", "org/name"), std::pair("c", "c")}) {
        program.model_id = id;
        const Json model = get("/api/v1/model");
        EXPECT_EQ(model["model_name"], name);
        EXPECT_EQ(model["result"], std::string("attnscope/") + name);
    }
}

TEST_F(LlamaFront, WhereAttentionIsAnsweredIsSaidOfThisProgramAlone) {
    const std::string words = post("/embedding", {{"content", "a"}, {"output_attentions", true}}, 400);
    EXPECT_NE(words.find("attention is answered at /completion"), std::string::npos) << words;
    EXPECT_EQ(words.find("Ollama"), std::string::npos) << words;
}

TEST_F(LlamaFront, WithoutAttentionARequestGoesOnAsItIs) {
    const Json body = {{"prompt", "abc"}, {"n_predict", 2}, {"stream", true}};
    for (const Json& event : events(post("/completion", body))) EXPECT_FALSE(event.contains("attention"));
    EXPECT_EQ(program.last_body(), body);
}

TEST_F(LlamaFront, WhatHasNoAttentionIsRefusedInWords) {
    const Json attention = {{"reduce", "mean"}};
    post("/completion", {{"prompt", {"a", "b"}}, {"attention", attention}}, 400);
    post("/completion", {{"prompt", {{"prompt_string", "a"}, {"multimodal_data", {"x"}}}}, {"attention", attention}},
         400);
    post("/v1/completions", {{"prompt", "a"}, {"n", 2}, {"attention", attention}}, 400);
    post("/completion", {{"prompt", "a"}, {"attention", {{"layers", {99}}}}}, 400);
    post("/completion", {{"prompt", "a"}, {"attention", {{"nonsense", 1}}}}, 400);
    post("/infill", {{"prompt", "a"}, {"attention", attention}}, 400);
    const auto refused = [&](const char* path, const std::string& body, const char* words) {
        httplib::Client client("127.0.0.1", front->port());
        const auto answer = client.Post(path, body, "application/json");
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->status, 400) << path << body;
        EXPECT_NE(answer->body.find(words), std::string::npos) << answer->body;
    };
    refused("/completion", R"({"prompt":"a","attention":{},"response_fields":["content"]})", "response_fields");
    refused("/completion", R"({"prompt":"a","\u0061ttention":{"nonsense":1}})", "nonsense");
    refused("/completion", R"({"prompt":"a","attention":{},"x":)" + std::string(60, '[') + std::string(60, ']') + "}",
            "");
    refused("/v1/responses", R"({"input":"a","output_attentions":true})", "attention is answered at");
    for (const char* value : {"\"yes\"", "1", "true"})
        refused("/v1/completions", std::string(R"({"prompt":"a","output_hidden_states":)") + value + "}",
                "hidden states");
    httplib::Headers headers; // the slot is ours to choose
    post("/completion", {{"prompt", "abc"}, {"n_predict", 2}, {"id_slot", 3}, {"attention", attention}}, 200, &headers);
    EXPECT_EQ(headers.find("X-Ignored-Fields")->second, "id_slot");
    for (const char* path : {"/completion", "/v1/completions", "/infill"}) // alone, too
        EXPECT_NE(post(path, {{"prompt", "a"}, {"output_hidden_states", true}}, 400).find("hidden states"),
                  std::string::npos)
            << path;
    post("/v1/chat/completions",
         {{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}, {"attention", attention}}, 400);
}

TEST_F(LlamaFront, AValueThatNothingIsAskedByIsRefusedAndNotTakenForNothing) {
    for (const char* path : {"/completion", "/completions", "/v1/completions", "/v1/chat/completions"}) {
        const bool chat = std::string(path).find("chat") != std::string::npos;
        Json body = {{"max_tokens", 2}, {"n_predict", 2}};
        body[chat ? "messages" : "prompt"] = chat ? Json{{{"role", "user"}, {"content", "hi"}}} : Json("abc");
        for (const Json& value : {Json("all"), Json("yes"), Json("true"), Json(1), Json(0), Json::array()}) {
            for (const char* name : {"output_attentions", "attention"}) {
                Json asked = body;
                asked[name] = value;
                const Json error = Json::parse(post(path, asked, 400))["error"];
                EXPECT_NE(error["message"].get<std::string>().find(name), std::string::npos) << path << value;
            }
        }
        Json asked = body;
        asked["record"] = "always";
        EXPECT_NE(post(path, asked, 400).find("record"), std::string::npos);
        asked = body;
        asked["attention_format"] = "aggregated"; // asks for nothing by itself
        asked["output_attentions"] = nullptr;
        if (path == std::string("/completion") || chat) post(path, asked); // routes of the stand-in
    }
}

// 60 MB of text are 15 million tokens: what is told of them is more than is read, and no context holds them.
TEST_F(LlamaFront, ATextOfMoreTokensThanAreReadIsTheClientsToShorten) {
    program.tells_too_much = true;
    const Json openai = Json::parse(post("/completion", {{"prompt", "a"}, {"attention", Json::object()}}, 400));
    EXPECT_EQ(openai["error"]["code"], "context_length_exceeded");
    EXPECT_EQ(openai["error"]["message"],
              "the text has more than 5592405 tokens; at most 63 fit into the context of 64");
    const Json spans = {{"reduce", "spans"}, {"spans", {{{"characters", {0, 1}}}}}};
    for (const char* path : {"/api/v1/generate", "/api/extra/tokencount", "/api/extra/generate/stream"}) {
        const Json kobold = Json::parse(post(path, {{"prompt", "a"}}, 400));
        EXPECT_NE(kobold["detail"]["msg"].get<std::string>().find("context of 64"), std::string::npos) << kobold.dump();
    }
    const Json pieces = Json::parse(post("/api/v1/generate", {{"prompt", "a"}, {"attention", spans}}, 400));
    EXPECT_EQ(pieces["detail"]["msg"], "the request is too long: what the program tells of it is more than 64 MB");
}

TEST_F(LlamaFront, HaloWeavesStreamIsACompletion) {
    const Json body = {{"input_ids", {97, 98, 99}},
                       {"max_length", 3},
                       {"temperature", 0},
                       {"output_attentions", true},
                       {"request_id", "r"}};
    program.skipped_token = 1; // its id is known when the next one was decoded
    const auto all = events(post("/api/extra/generate/stream", body));
    ASSERT_EQ(all.size(), 4u);
    for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(all[i]["type"], "token");
        EXPECT_EQ(all[i]["token"]["token_id"], 1000 + i);
        EXPECT_EQ(all[i]["request_id"], "r");
        expect_row(all[i]["attention"], 2 + i);
    }
    EXPECT_EQ(all[3]["type"], "done");
    EXPECT_EQ(all[3]["total_tokens"], 3);
    EXPECT_EQ(all[3]["finish_reason"], "length");
    EXPECT_EQ(program.last_body()["n_predict"], 3);
    EXPECT_EQ(program.last_body()["top_k"], 100);
}

} // namespace
