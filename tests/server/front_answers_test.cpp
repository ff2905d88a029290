// What a front does with rows beside telling them: what the latest is, what to prune, where a line is recorded, the page.
#include "llama_stand_in.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <fstream>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

class FrontAnswers : public BeforeLlama {
protected:
    FrontAnswers() {}
};

class RecordingFront : public BeforeLlama {
protected:
    RecordingFront() : RecordingFront(std::make_shared<TempDir>()) {}
    const std::shared_ptr<TempDir> dir;

private:
    explicit RecordingFront(const std::shared_ptr<TempDir>& at)
        : BeforeLlama([&](FrontOptions& o) { o.server.record_dir = at->path().string(); }), dir(at) {}
};

// Everything is decoded before the first event is read: of all rows but the last there is a newer one.
TEST_F(FrontAnswers, OfTheLatestWhatWasOvertakenIsCountedAndTextNeverIs) {
    const Json latest = {{"reduce", "none"}, {"flow", "latest"}};
    const auto check = [&](const std::vector<Json>& all, const std::function<Json(const Json&)>& summary) {
        ASSERT_EQ(all.size(), 6u);
        for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(all[i]["attention"].is_null()) << all[i].dump();
        expect_row(all[4]["attention"], 2 + 4);
        EXPECT_EQ(summary(all[5])["skipped"], 4) << all[5].dump();
    };
    check(events(post("/completion", {{"prompt", "abc"}, {"n_predict", 5}, {"stream", true}, {"attention", latest}})),
          [](const Json& last) { return last["summary"]; });
    check(events(post("/api/extra/generate/stream",
                      {{"prompt", "abc"}, {"max_length", 5}, {"output_attentions", true}, {"attention", latest}})),
          [](const Json& last) { return last; });
    const auto kobold =
        events(post("/api/extra/generate/stream", {{"prompt", "abc"}, {"max_length", 5}, {"attention", latest}}));
    check(kobold, [](const Json& last) { return last["summary"]; });
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(kobold[i]["token"], "x");
    // Whoever accumulates loses nothing of that.
    Json counted = latest;
    counted["accumulate"] = "total";
    const auto all =
        events(post("/completion", {{"prompt", "abc"}, {"n_predict", 5}, {"stream", true}, {"attention", counted}}));
    EXPECT_EQ(all[5]["summary"]["skipped"], 4);
    EXPECT_EQ(all[5]["summary"]["scores"]["rows"], 5);
    expect_row(all[4]["attention"], 2 + 4);
    // Lossless is what it was, and says nothing of it.
    const auto lossless = events(
        post("/completion", {{"prompt", "abc"}, {"n_predict", 5}, {"stream", true}, {"attention", Json::object()}}));
    for (size_t i = 0; i < 5; ++i) expect_row(lossless[i]["attention"], 2 + i);
    EXPECT_FALSE(lossless[5]["summary"].contains("skipped"));
    // Nobody reads while an answer that is not streamed comes: nothing of it is overtaken.
    const Json whole = Json::parse(post("/completion", {{"prompt", "abc"}, {"n_predict", 5}, {"attention", latest}}));
    for (size_t i = 0; i < 5; ++i) expect_row(whole["attention"][i], 2 + i);
    const Json of_kobold =
        Json::parse(post("/api/v1/generate", {{"prompt", "abc"}, {"max_length", 5}, {"attention", latest}}));
    for (size_t i = 0; i < 5; ++i) expect_row(of_kobold["attention"][i], 2 + i);
}

TEST_F(FrontAnswers, WhatWaitsForWhoeverWantsTheLatestIsKeysAlone) {
    // Of 40 frames all but the newest are keys: what waits is less than what may, where it would be more with queries.
    const LiveModel model({}, 0);
    FrontOptions options;
    options.server.port = 0;
    options.to.port = program.port;
    options.server.stream_memory = 40 * model.geometry().k_bytes() + 4 * (LiveModel({}, 0).next().q.size());
    auto small = Front::start(options, live);
    ASSERT_TRUE(small);
    httplib::Client client("127.0.0.1", (*small)->port());
    const auto last = [&](const char* flow) {
        const Json body = {{"prompt", "abc"}, {"n_predict", 40}, {"stream", true}, {"attention", {{"flow", flow}}}};
        const auto answer = client.Post("/completion", body.dump(), "application/json");
        return answer ? events(answer->body)[39]["attention"] : Json();
    };
    EXPECT_TRUE(last("lossless").contains("error"));
    expect_row(last("latest"), 2 + 39);
}

TEST_F(FrontAnswers, WhatAnAnswerAccumulatedDecidesWhatToPrune) {
    Json ids = Json::array();
    for (int i = 0; i < 12; ++i) ids.push_back(97 + i);
    const Json attention = {{"reduce", "mean"}, {"accumulate", "total"}};
    const auto scores_of = [](const Json& of) { return of["scores"]["total"].get<std::vector<double>>(); };
    std::vector<std::pair<std::string, std::vector<double>>> told;
    told.emplace_back("A", scores_of(events(post("/completion", {{"prompt", ids},
                                                                 {"n_predict", 5},
                                                                 {"stream", true},
                                                                 {"request_id", "A"},
                                                                 {"attention", attention}}))
                                         .back()["summary"]));
    told.emplace_back("B", scores_of(events(post("/api/extra/generate/stream", {{"input_ids", ids},
                                                                                {"max_length", 5},
                                                                                {"request_id", "B"},
                                                                                {"output_attentions", true},
                                                                                {"attention", attention}}))
                                         .back()));
    told.emplace_back(
        "C", scores_of(Json::parse(post(
                 "/completion", {{"prompt", ids}, {"n_predict", 5}, {"request_id", "C"}, {"attention", attention}}))));
    for (const auto& [id, scores] : told) {
        const Json by_id = Json::parse(
            post("/api/v1/prune", {{"input_ids", ids}, {"policy", "h2o"}, {"budget", 6}, {"request_id", id}}));
        const Json by_scores = Json::parse(
            post("/api/v1/prune", {{"input_ids", ids}, {"policy", "h2o"}, {"budget", 6}, {"scores", scores}}));
        EXPECT_EQ(by_id["input_ids"].size(), 6u) << id;
        EXPECT_EQ(by_id, by_scores) << id;
    }
    Json others = ids;
    others[0] = 5;
    EXPECT_NE(post("/api/v1/prune", {{"input_ids", others}, {"budget", 6}, {"request_id", "A"}}, 400)
                  .find("not the tokens that were scored"),
              std::string::npos);
    post("/api/v1/prune", {{"input_ids", ids}, {"budget", 6}, {"request_id", "never"}}, 400);
    // Only the last 16 are remembered.
    for (int i = 0; i < 16; ++i)
        post("/completion",
             {{"prompt", ids}, {"n_predict", 1}, {"request_id", "more" + std::to_string(i)}, {"attention", attention}});
    post("/api/v1/prune", {{"input_ids", ids}, {"budget", 6}, {"request_id", "A"}}, 400);
    post("/api/v1/prune", {{"input_ids", ids}, {"budget", 6}, {"request_id", "more0"}});
}

TEST_F(FrontAnswers, WithoutAFolderNothingIsRecordedAndThereIsNoPage) {
    for (const char* path : {"/completion", "/v1/chat/completions", "/api/v1/generate", "/api/extra/generate/stream"}) {
        const Json body = {{"prompt", "abc"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"record", true}};
        EXPECT_NE(post(path, body, 400).find("record"), std::string::npos) << path;
    }
    httplib::Client client("127.0.0.1", front->port());
    EXPECT_EQ(client.Get("/view/")->status, 404); // the program's
}

TEST_F(RecordingFront, TheEndOfAnAnswerTellsWhereItIsRecorded) {
    program.records = true;
    int64_t line = -1;
    const auto check = [&](const Json& of) {
        EXPECT_EQ(of["recording"], "a_model-1-0.attn") << of.dump();
        EXPECT_EQ(of["sequence"], ++line) << of.dump();
    };
    for (const bool attention : {false, true}) {
        Json body = {{"prompt", "abc"}, {"n_predict", 3}, {"record", true}};
        if (attention) body["attention"] = {{"reduce", "mean"}};
        const Json whole = Json::parse(post("/completion", body));
        check(whole);
        EXPECT_EQ(whole.contains("attention"), attention);
        EXPECT_FALSE(program.last_body().contains("record"));
        body["stream"] = true;
        const auto streamed = events(post("/completion", body));
        check(streamed.back()["summary"]);
        EXPECT_EQ(streamed[0].contains("attention"), attention);
        Json chat = body;
        chat["messages"] = {{{"role", "user"}, {"content", "hi"}}};
        chat["max_tokens"] = 3;
        chat.erase("n_predict");
        check(events(post("/v1/chat/completions", chat)).back()["summary"]);
        Json kobold = body;
        kobold["max_length"] = 3;
        check(Json::parse(post("/api/v1/generate", kobold)));
        check(events(post("/api/extra/generate/stream", kobold)).back()["summary"]);
        kobold["output_attentions"] = "aggregated";
        if (attention) check(events(post("/api/extra/generate/stream", kobold)).back());
    }
}

TEST_F(RecordingFront, WhyALineIsNotRecordedIsSaidInWords) {
    const Json body = {{"prompt", "abc"}, {"n_predict", 3}, {"record", true}};
    Json whole = Json::parse(post("/completion", body));
    EXPECT_TRUE(whole["recording_error"].is_string()) << whole.dump();
    EXPECT_FALSE(whole.contains("recording"));
    program.records = true;
    program.wrong_slot = true; // somebody else's line is never named
    whole = Json::parse(post("/completion", body));
    EXPECT_TRUE(whole["recording_error"].is_string()) << whole.dump();
    EXPECT_FALSE(whole.contains("recording"));
}

TEST_F(RecordingFront, ThePageShowsTheFolder) {
    httplib::Client client("127.0.0.1", front->port());
    EXPECT_EQ(client.Get("/view/")->status, 200);
    std::ofstream(dir->file("SmolLM2-1-0.attn")) << "no recording";
    const Json sources = get("/view/api/sources");
    ASSERT_EQ(sources["sources"].size(), 1u) << sources.dump();
    EXPECT_EQ(sources["live"], true);
}

} // namespace
