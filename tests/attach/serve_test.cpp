// attnscope attach --serve before a program that generates one text at a time, in Halo Weave's words: a conversation of ten turns, of
// which the page takes parts away, and every row bit for bit that of a recording.
#include "attach/host_output.h"
#include "attach/served_program.h"
#include "models/model_store.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <memory>

using namespace attnscope;
using namespace attnscope::test;
using Json = nlohmann::json;

namespace {

struct Told {
    std::vector<int32_t> context; // that the row is over
    Json attention;
};

class AttachServe : public testing::Test {
protected:
    void SetUp() override {
        const auto found = models::find_model("smollm2");
        if (!found) GTEST_SKIP() << found.error().message;
        served_ = std::make_unique<ServedProgram>(std::vector<std::string>{"-o", out}, [&](const std::string& port) {
            return std::vector<std::string>{ATTNSCOPE_KOBOLD_STAND_IN, *found, "--port", port};
        });
        ASSERT_TRUE(served_->ok()) << "the program does not answer";
    }
    void TearDown() override { end(); }
    void end() {
        if (served_) served_->end();
    }
    std::vector<int32_t> tokenize(const std::string& text) {
        const auto answer = served_->client().Post("/api/v1/tokenize", Json{{"text", text}}.dump(), "text/plain");
        EXPECT_TRUE(answer && answer->status == 200);
        return answer ? Json::parse(answer->body)["token_ids"].get<std::vector<int32_t>>() : std::vector<int32_t>();
    }
    // Appends what is generated to `ids`.
    void generate(std::vector<int32_t>& ids, int n) {
        const Json body = {{"input_ids", ids},
                           {"max_length", n},
                           {"temperature", 0},
                           {"output_attentions", true},
                           {"request_id", "r"}};
        const auto answer = served_->client().Post("/api/extra/generate/stream", body.dump(), "application/json");
        ASSERT_TRUE(answer);
        ASSERT_EQ(answer->status, 200) << answer->body;
        bool done = false;
        for (size_t at = 0; (at = answer->body.find("data: ", at)) != std::string::npos; ++at) {
            const Json event =
                Json::parse(answer->body.substr(at + 6, answer->body.find('\n', at) - at - 6), nullptr, false);
            ASSERT_TRUE(event.is_object()) << answer->body.substr(at, 200);
            if (event["type"] == "done") done = true;
            ASSERT_NE(event["type"], "error") << event.dump();
            if (event["type"] != "token") continue;
            told_.push_back({ids, event["attention"]});
            ids.push_back(event["token"]["token_id"]);
        }
        EXPECT_TRUE(done);
    }
    // Whether the row is that of a line of a recording whose tokens are those.
    bool recorded(const Told& told) {
        const std::vector<float> row = numbers_of(told.attention.value("data", ""));
        const auto index = static_cast<int64_t>(told.context.size()) - 1;
        for (const std::string& path : recordings(out)) {
            auto recording = Recording::open(path);
            if (!recording) continue;
            for (const Sequence& s : (*recording)->sequences()) {
                if (s.n_frames <= index) continue;
                auto frames = (*recording)->frames(0, index + 1, s.id);
                auto rows = (*recording)->rows({index, s.id});
                if (!frames || !rows || rows->weights != row) continue;
                bool same = true;
                for (int64_t i = 0; i <= index; ++i)
                    same = same && (*frames)[static_cast<size_t>(i)].token == told.context[static_cast<size_t>(i)];
                if (same) return true;
            }
        }
        return false;
    }

    TempDir dir;
    const std::string out = dir.file("out");
    std::vector<Told> told_;
    std::unique_ptr<ServedProgram> served_;
};

TEST_F(AttachServe, AConversationOfHaloWeavesBeforeKoboldCpp) {
    std::vector<int32_t> ids = tokenize("The capital of France is Paris, and");
    ASSERT_FALSE(ids.empty());
    for (int turn = 0; turn < 10; ++turn) {
        generate(ids, 4);
        if (HasFatalFailure()) return;
        if (turn % 3 == 2) ids.erase(ids.begin() + 2, ids.begin() + 6); // pruned
        const std::vector<int32_t> more = tokenize(" Then she said that");
        ids.insert(ids.end(), more.begin(), more.end());
        // The page sends what it shows: the text that these tokens are.
        const auto text =
            served_->client().Post("/api/v1/detokenize", Json{{"token_ids", ids}}.dump(), "application/json");
        ASSERT_TRUE(text && text->status == 200);
        ids = tokenize(Json::parse(text->body)["text"]);
    }
    end();
    ASSERT_GE(told_.size(), 30u);
    for (const Told& told : told_) {
        ASSERT_TRUE(told.attention.is_object() && !told.attention.contains("error")) << told.attention.dump();
        EXPECT_EQ(told.attention["index"], told.context.size() - 1);
        EXPECT_TRUE(recorded(told)) << told.context.size();
    }
}

TEST_F(AttachServe, WhatAsksForNoAttentionIsTheProgramsOwn) {
    const Json body = {{"prompt", "The capital of France is"}, {"max_length", 3}};
    const auto answer = served_->client().Post("/api/extra/generate/stream", body.dump(), "application/json");
    ASSERT_TRUE(answer);
    EXPECT_NE(answer->body.find("\"finish_reason\":\"length\""), std::string::npos) << answer->body;
    EXPECT_EQ(answer->body.find("attention"), std::string::npos);
    const Json other = {{"input_ids", {1, 2}}, {"prompt", ""}, {"output_hidden_states", true}};
    EXPECT_EQ(served_->client().Post("/api/extra/generate/stream", other.dump(), "application/json")->status, 400);
    for (const char* value : {R"("all")", "1"}) { // asks for something, too
        const auto wrong = served_->client().Post(
            "/api/extra/generate/stream",
            std::string(R"({"prompt":"a","max_length":1,"output_attentions":)") + value + "}", "application/json");
        ASSERT_TRUE(wrong);
        EXPECT_EQ(wrong->status, 400);
        EXPECT_NE(wrong->body.find("output_attentions"), std::string::npos) << wrong->body;
    }
}

} // namespace
