// What to drop from a conversation, asked of the server.
#include "served_model.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

TEST(Prune, GivenScoresDecide) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json out = served.post("/api/v1/prune", {{"input_ids", {10, 11, 12, 13, 14, 15}},
                                                   {"scores", {9, 9, 1, 1, 5, 5}},
                                                   {"chunks", {{0, 2}, {2, 4}, {4, 6}}},
                                                   {"budget", 4}});
    EXPECT_EQ(out["dropped_chunks"], Json::array({1}));
    EXPECT_EQ(out["dropped_tokens"], Json::array({Json::array({2, 4})}));
    EXPECT_EQ(out["input_ids"], Json::array({10, 11, 14, 15}));
    EXPECT_EQ(out["fits"], true);
    const Json pinned = served.post(
        "/api/v1/prune",
        {{"scores", {9, 9, 1, 1, 5, 5}}, {"chunks", {{0, 2}, {2, 4}, {4, 6}}}, {"pinned", {1}}, {"budget", 4}});
    EXPECT_EQ(pinned["dropped_chunks"], Json::array({2}));
}

TEST(Prune, WhatAGenerationOrItsRecordingAccumulatedDecides) {
    TempDir dir;
    ServedModel served([&](server::ServerOptions& o) { o.record_dir = dir.path().string(); });
    ASSERT_TRUE(served.ok()) << served.error();
    const Json ids = served.post("/api/v1/tokenize", {{"text", long_text(6)}})["token_ids"];
    const auto events =
        served.events("/api/extra/generate/stream", {{"input_ids", ids},
                                                     {"max_length", 12},
                                                     {"ban_eos_token", true},
                                                     {"temperature", 0},
                                                     {"request_id", "A"},
                                                     {"record", true},
                                                     {"output_attentions", true},
                                                     {"attention", {{"reduce", "mean"}, {"accumulate", "total"}}}});
    ASSERT_TRUE(events.back().contains("scores")) << events.back().dump();
    for (const char* policy : {"brightness", "h2o", "snapkv", "tova"}) {
        Json body = {{"input_ids", ids}, {"policy", policy}, {"budget", ids.size() / 2}, {"request_id", "A"}};
        const Json live = served.post("/api/v1/prune", body);
        EXPECT_EQ(live["input_ids"].size(), ids.size() / 2) << policy;
        body.erase("request_id");
        body["recording"] = events.back()["recording"];
        const Json recorded = served.post("/api/v1/prune", body);
        EXPECT_EQ(recorded["input_ids"], live["input_ids"]) << policy;
    }
    // Scores of other tokens say nothing of these.
    Json others = ids;
    others.erase(others.begin());
    for (const Json& of : {Json{{"request_id", "A"}}, Json{{"recording", events.back()["recording"]}}}) {
        Json body = {{"input_ids", others}, {"policy", "h2o"}, {"budget", 10}}, answer;
        body.update(of);
        EXPECT_EQ(served.status("/api/v1/prune", body.dump(), &answer), 400) << of.dump();
        EXPECT_NE(answer["detail"]["msg"].get<std::string>().find("not the tokens that were scored"),
                  std::string::npos);
    }
}

TEST(Prune, NothingOutsideTheFolderOfRecordingsIsOpened) {
    TempDir dir;
    ServedModel served([&](server::ServerOptions& o) { o.record_dir = dir.path().string(); });
    ASSERT_TRUE(served.ok()) << served.error();
    for (const char* name : {"../x.attn", "/etc/passwd", "a/../../x.attn", ".attn", "x", "..attn", "a\0b.attn"}) {
        EXPECT_EQ(served.status("/api/v1/prune", Json({{"budget", 1}, {"recording", name}}).dump()), 400) << name;
    }
    EXPECT_EQ(served.status("/api/v1/prune", Json({{"budget", 1}, {"recording", "missing.attn"}}).dump()), 404);
    EXPECT_EQ(served.status("/api/v1/prune", Json({{"budget", 1}, {"request_id", "missing"}}).dump()), 400);
    EXPECT_EQ(served.status("/api/v1/prune", Json({{"scores", {1, 2}}}).dump()), 400);
}
