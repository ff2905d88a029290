// The routes of the page without a server, as a notebook's widget asks them.
#include "recording/synthetic.h"
#include "support/temp_dir.h"

#include <attnscope/page_answers.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

using namespace attnscope;
using Json = nlohmann::json;

namespace {

std::vector<float> floats(const std::string& body) {
    std::vector<float> values(body.size() / sizeof(float));
    std::memcpy(values.data(), body.data(), values.size() * sizeof(float));
    return values;
}

std::string row_query(const std::string& source, int64_t token, int32_t layer, int32_t head) {
    return "r=" + source + "&t=" + std::to_string(token) + "&layer=" + std::to_string(layer) +
           "&head=" + std::to_string(head);
}

class PageAnswersOf : public ::testing::Test {
protected:
    void SetUp() override {
        test::write_recording(mixed_, test::mixed_geometry(), n_);
        test::write_recording(uniform_, test::uniform_geometry({}), 12);
        auto opened = PageAnswers::open({mixed_, uniform_});
        ASSERT_TRUE(opened) << opened.error().message;
        answers_ = std::move(*opened);
    }
    // The sentence of a refusal.
    std::string refusal(const std::string& path, const std::string& query, int status) {
        const PageAnswer a = answers_->answer(path, query);
        EXPECT_EQ(a.status, status) << path << '?' << query << ": " << a.body;
        const Json body = Json::parse(a.body, nullptr, false);
        if (body.is_discarded() || !body.contains("error")) return {};
        return body["error"].value("message", "");
    }

    const int64_t n_ = 40;
    test::TempDir folder_;
    std::string mixed_ = folder_.file("mixed.attn"), uniform_ = folder_.file("uniform.attn");
    std::unique_ptr<PageAnswers> answers_;
};

} // namespace

TEST_F(PageAnswersOf, RowsAreThoseOfTheRecordingBitForBit) {
    int n_rows = 0;
    for (const auto& [id, path] : {std::pair<std::string, std::string>{"0", mixed_}, {"1", uniform_}}) {
        auto recording = Recording::open(path);
        ASSERT_TRUE(recording);
        const RecordingInfo& info = (*recording)->info();
        for (int64_t t = 0; t < info.n_frames; ++t) {
            for (int32_t l = 0; l < info.geometry.n_layer(); ++l) {
                const LayerInfo& layer = info.geometry.layers[size_t(l)];
                if (!layer.captured()) {
                    EXPECT_GE(answers_->answer("row", row_query(id, t, l, 0)).status, 400);
                    continue;
                }
                for (int32_t h = 0; h < layer.n_head; ++h) {
                    const PageAnswer a = answers_->answer("row", row_query(id, t, l, h));
                    const auto expected = (*recording)->rows(t, {std::vector<int32_t>{l}, std::vector<int32_t>{h}});
                    if (!expected) { // a token whose queries were not kept
                        ASSERT_EQ(expected.error().kind, ErrorKind::not_found);
                        ASSERT_EQ(a.status, 404) << a.body;
                        continue;
                    }
                    ++n_rows;
                    ASSERT_EQ(a.status, 200) << a.body;
                    ASSERT_EQ(floats(a.body), expected->weights) << "token " << t << " layer " << l << " head " << h;
                }
            }
        }
    }
    EXPECT_GT(n_rows, 300);
}

TEST_F(PageAnswersOf, SaysWhatThereIsToShow) {
    const PageAnswer a = answers_->answer("sources", "");
    ASSERT_EQ(a.status, 200);
    const Json sources = Json::parse(a.body);
    EXPECT_EQ(sources["live"], false);
    ASSERT_EQ(sources["sources"].size(), 2U);
    EXPECT_EQ(sources["sources"][0]["name"], "mixed.attn");
    EXPECT_EQ(sources["sources"][1]["name"], "uniform.attn");
    const PageAnswer tokens = answers_->answer("tokens", "r=1");
    ASSERT_EQ(tokens.status, 200);
    EXPECT_EQ(Json::parse(tokens.body)["ids"].size(), 12U);
}

TEST_F(PageAnswersOf, WhatMakesNoSenseIsRefusedInWords) {
    EXPECT_FALSE(refusal("nothing", "r=0", 404).empty());
    EXPECT_FALSE(refusal("", "", 404).empty());
    EXPECT_FALSE(refusal("../info", "r=0", 404).empty());
    EXPECT_FALSE(refusal("row", "", 404).empty());
    EXPECT_FALSE(refusal("row", "r=2&t=0", 404).empty());
    EXPECT_FALSE(refusal("info", "r=" + mixed_, 404).empty()) << "a path is no id";
    EXPECT_FALSE(refusal("row", "r=0&t=-1", 400).empty());
    EXPECT_FALSE(refusal("row", "r=0&t=x", 400).empty());
    EXPECT_FALSE(refusal("row", "r=0&t=99999999999999999999", 400).empty());
    EXPECT_FALSE(refusal("row", "r=0&t=0&layer=65536", 404).empty());
    EXPECT_FALSE(refusal("row", "r=0&t=0&reduce=median", 400).empty());
    EXPECT_FALSE(refusal("row", "r=0&t=" + std::string(100'000, '0'), 414).empty());
    EXPECT_GE(answers_->answer("row", "r=0&t=" + std::to_string(n_)).status, 400);
    EXPECT_GE(answers_->answer("tile", "r=0&level=40&x=16777216").status, 202);
    EXPECT_GE(answers_->answer("row", std::string("r=0&t=%00%ff%\0=&&&=;", 21)).status, 400);
}

// What web/src/transport/api.ts sends is known, and nothing else: a word that is misspelt would change nothing, without a sound.
TEST_F(PageAnswersOf, AWordThatAQuestionDoesNotKnowIsRefusedByItsName) {
    struct Question {
        const char *path, *words;
    };
    const Question questions[] = {{"sources", ""},
                                  {"sequences", "r=0"},
                                  {"info", "r=0&s=0"},
                                  {"tokens", "r=0&s=0"},
                                  {"health", "r=0&s=0"},
                                  {"heads", "r=0&s=0"},
                                  {"row", "r=0&s=0&t=20&layer=1&head=2&reduce=max"},
                                  {"column", "r=0&t=20&layer=1&head=2&reduce=max"},
                                  {"tile", "r=0&level=0&x=0&y=0&layer=1&head=2&reduce=max"},
                                  {"scores", "r=0&layer=1&head=2&reduce=max"},
                                  {"prune", "r=0&policy=h2o&budget=5&layer=1&head=2&reduce=max"},
                                  {"head", "r=0&layer=1&head=2"},
                                  {"flow", "r=0&begin=25&end=30&layer=1&head=2&reduce=max"},
                                  {"rollout", "r=0&begin=25&end=30"},
                                  {"compare", "a=0&sa=0&b=1&sb=0"}};
    for (const auto& [path, words] : questions) {
        EXPECT_NE(answers_->answer(path, words).status, 400) << path << "?" << words;
        const std::string asked = words, first = asked.substr(0, asked.find('='));
        for (const char* unknown : {"lyer", "R", "t ", "layer2", "layers"}) {
            const std::string said = refusal(path, asked + (asked.empty() ? "" : "&") + unknown + "=1", 400);
            EXPECT_NE(said.find(std::string("\"") + unknown + "\""), std::string::npos) << path << ": " << said;
        }
        if (first.empty()) continue;
        const std::string twice = refusal(path, asked + "&" + first + "=77", 400); // which of both would count?
        EXPECT_NE(twice.find("\"" + first + "\" is given more than once"), std::string::npos) << path << ": " << twice;
    }
    EXPECT_NE(refusal("rollout", "r=0&begin=25&end=30&layer=1", 400).find("\"layer\""), std::string::npos)
        << "it is of all layers";
}

TEST_F(PageAnswersOf, ManyThreadsAskAtOnce) {
    std::vector<std::string> expected;
    for (int64_t t = 0; t < 12; ++t) expected.push_back(answers_->answer("row", row_query("1", t, 1, 2)).body);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 6; ++i) {
        threads.emplace_back([&, i] {
            for (int64_t t = 0; t < 12; ++t) {
                const int64_t at = (t * 5 + i) % 12;
                if (answers_->answer("row", row_query("1", at, 1, 2)).body != expected[size_t(at)]) ++wrong;
                if (answers_->answer("flow", "r=0").status >= 500) ++wrong;
                if (answers_->answer("tokens", "r=0").status != 200) ++wrong;
            }
        });
    }
    for (std::thread& t : threads) t.join();
    EXPECT_EQ(wrong, 0);
}

TEST_F(PageAnswersOf, WhatCannotBeOpenedIsAnErrorWithItsKind) {
    const auto kind = [](const std::string& path) {
        auto opened = PageAnswers::open({path});
        EXPECT_FALSE(opened);
        if (opened) return ErrorKind::io;
        EXPECT_FALSE(opened.error().message.empty());
        return opened.error().kind;
    };
    EXPECT_EQ(kind(folder_.file("nothing.attn")), ErrorKind::not_found);
    std::ofstream(folder_.file("text.attn")) << "no recording at all";
    EXPECT_NE(kind(folder_.file("text.attn")), ErrorKind::io);
    EXPECT_NO_FATAL_FAILURE(kind(""));
    EXPECT_FALSE(PageAnswers::open({mixed_, folder_.file("nothing.attn")})) << "one of them is enough";
    auto none = PageAnswers::open({});
    ASSERT_TRUE(none);
    EXPECT_EQ((*none)->answer("info", "r=0").status, 404);
}

TEST_F(PageAnswersOf, AFileThatIsCutWhileItIsShownEndsInRefusals) {
    std::filesystem::resize_file(mixed_, 4096);
    for (const char* question : {"info?r=0", "tokens?r=0", "health?r=0", "heads?r=0", "row?r=0&t=3", "column?r=0&t=3",
                                 "tile?r=0", "scores?r=0", "prune?r=0&policy=h2o&budget=5", "flow?r=0"}) {
        const std::string asked = question;
        for (int i = 0; i < 3; ++i) {
            const PageAnswer a = answers_->answer(asked.substr(0, asked.find('?')), asked.substr(asked.find('?') + 1));
            EXPECT_EQ(a.body.find("this question takes"), std::string::npos) << asked << ": " << a.body;
            if (a.status >= 400) {
                EXPECT_FALSE(Json::parse(a.body)["error"].value("message", "").empty()) << asked;
            }
        }
    }
    EXPECT_EQ(answers_->answer("tokens", "r=1").status, 200) << "the other one is whole";
}
