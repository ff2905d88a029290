// The page's routes over a recording of an encoder and its decoder (T5): where a token has no row, or a layer cannot look at it, they
// say so. Tokens 0 to 9 are read, 10 is what the decoder begins with, 11 to 15 are written; layers 0 and 1 are the encoder's, 2 and 4
// the decoder's, 3 and 5 cross attention.
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/page_answers.h>
#include <attnscope/session_recorder.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

using namespace attnscope;
using Json = nlohmann::json;

namespace {

constexpr int64_t n_text = 10, n_all = 16;

class PageMissingRows : public testing::Test {
protected:
    void SetUp() override {
        models::ModelShape shape;
        shape.arch = "t5";
        shape.n_layer = 2;
        SessionOptions options;
        options.model_path = dir_.file("t5.gguf");
        options.n_threads = 1;
        options.encoder_decoder = true;
        ASSERT_TRUE(models::make_model(shape, options.model_path));
        auto session = Session::open(options);
        ASSERT_TRUE(session) << session.error().message;
        std::vector<int32_t> text;
        for (int32_t i = 0; i < n_text; ++i) text.push_back(5 + 7 * i);
        GenerateOptions generate;
        generate.n_predict = 5;
        generate.ignore_eos = true;
        SessionRecorder recorder(**session, dir_.file("t5.attn"));
        ASSERT_TRUE((*session)->generate(text, generate, recorder.sink()));
        ASSERT_TRUE(recorder.close());
        auto opened = PageAnswers::open({dir_.file("t5.attn")});
        ASSERT_TRUE(opened) << opened.error().message;
        answers_ = std::move(*opened);
    }
    PageAnswer answer(const std::string& path, const std::string& query) {
        PageAnswer a = answers_->answer(path, "r=0&" + query);
        for (int tries = 0; a.status == 202 && tries < 200; ++tries) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            a = answers_->answer(path, "r=0&" + query);
        }
        return a;
    }
    std::vector<float> floats(const std::string& path, const std::string& query) {
        const PageAnswer a = answer(path, query);
        EXPECT_EQ(a.status, 200) << path << "?" << query << ": " << a.body;
        std::vector<float> values(a.body.size() / sizeof(float));
        std::memcpy(values.data(), a.body.data(), values.size() * sizeof(float));
        return values;
    }
    void refused(const std::string& path, const std::string& query, const std::string& sentence) {
        const PageAnswer a = answer(path, query);
        EXPECT_EQ(a.status, 404) << path << "?" << query << ": " << a.body;
        EXPECT_NE(a.body.find(sentence), std::string::npos) << a.body;
    }

    test::TempDir dir_;
    std::unique_ptr<PageAnswers> answers_;
};

} // namespace

TEST_F(PageMissingRows, NothingIsKeptOutOfNoData) {
    const std::string why = "layer of the encoder, and the token is the decoder's";
    for (const char* policy : {"h2o", "tova", "snapkv", "brightness"})
        refused("prune", std::string("budget=5&layer=0&policy=") + policy, why);
    refused("scores", "layer=1&head=2", why);
    const Json all = Json::parse(answer("prune", "policy=h2o&budget=5").body);
    EXPECT_EQ(all["kept"].size(), 5u);
    EXPECT_TRUE(all["unscored"].empty());
    // what a layer cannot look at stays, and is told
    struct Asked {
        int layer;
        int64_t begin, end;
    };
    for (const Asked& a : {Asked{2, 0, n_text}, Asked{5, n_text, n_all}}) {
        const std::string layer = "&layer=" + std::to_string(a.layer);
        const Json some = Json::parse(answer("prune", "policy=tova&budget=12" + layer).body);
        EXPECT_EQ(some["unscored"], (Json{{a.begin, a.end}}));
        const auto kept = some["kept"].get<std::vector<int64_t>>();
        EXPECT_EQ(kept.size(), 12u);
        for (int64_t i = a.begin; i < a.end; ++i) EXPECT_NE(std::find(kept.begin(), kept.end(), i), kept.end()) << i;
        const Json scores = Json::parse(answer("scores", layer.substr(1)).body);
        EXPECT_GT(scores["n_rows"], 0);
        for (size_t i = 0; i < scores["total"].size(); ++i)
            EXPECT_EQ(scores["total"][i].is_null(), int64_t(i) >= a.begin && int64_t(i) < a.end) << i;
    }
}

TEST_F(PageMissingRows, AColumnHasNoNumberWhereATokenHasNoRow) {
    const std::vector<float> c = floats("column", "t=3&layer=3");
    ASSERT_EQ(c.size(), size_t(n_all - 3));
    for (int64_t i = 3; i < n_all; ++i) EXPECT_EQ(std::isnan(c[size_t(i - 3)]), i < n_text) << i;
    for (const float w : floats("column", "t=3")) EXPECT_FALSE(std::isnan(w));
    refused("column", "t=3&layer=2", "nothing in layer 2 looks at token 3");
    refused("column", "t=12&layer=5",
            "cross attention, which looks at the encoder's text, and the token is the decoder's");
    refused("row", "t=3&layer=2", "token 3 has no row in layer 2");
}

TEST_F(PageMissingRows, WhatATokenReadsBehindASpanIsThere) {
    for (const char* path : {"flow", "rollout"}) {
        for (const char* span : {"begin=2&end=5", "begin=0&end=4", "begin=9&end=10", "begin=11&end=16"}) {
            const std::vector<float> w = floats(path, span);
            EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-5) << path << " " << span;
        }
    }
    refused("flow", "begin=2&end=5&layer=2", "token 4 has no row in layer 2");
}

TEST_F(PageMissingRows, InfoHasBothNumbersOfALayer) {
    const Json layers = Json::parse(answers_->answer("info", "r=0").body)["layers"];
    const int of_model[] = {0, 1, 0, 0, 1, 1};
    ASSERT_EQ(layers.size(), 6u);
    for (size_t i = 0; i < layers.size(); ++i) {
        EXPECT_EQ(layers[i]["index"], i);
        EXPECT_EQ(layers[i]["layer"], of_model[i]);
        EXPECT_EQ(layers[i]["both_ways"], i < 2);
    }
}
