// Rows from captured Q and K against the engine's own kq_soft_max: on tiny models of every kind of attention, through
// both ways in, and on the real model.
#include "models/model_make.h"
#include "models/model_store.h"
#include "support/engine_rows.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Case {
    const char* arch;
    const char* k_type;
    FlashAttention flash;
    Entry entry;
};

std::string name_of(const testing::TestParamInfo<Case>& info) {
    std::string name = std::string(info.param.arch) + "_" + info.param.k_type +
                       (info.param.flash == FlashAttention::on ? "_flash" : "_plain") +
                       (info.param.entry == Entry::callback ? "_callback" : "_interposed");
    for (char& c : name) {
        if (c == '-') c = '_';
    }
    return name;
}

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const char* arch : {"llama", "qwen2", "gemma2", "gemma3", "bloom", "gpt-oss"}) {
        for (const char* type : {"f16", "f32", "q8_0"}) {
            for (const FlashAttention flash : {FlashAttention::off, FlashAttention::on}) {
                for (const Entry entry : {Entry::interposed, Entry::callback})
                    all.push_back({arch, type, flash, entry});
            }
        }
    }
    return all;
}

} // namespace

class Fidelity : public testing::TestWithParam<Case> {};

TEST_P(Fidelity, RowsAreTheEnginesOwn) {
    const Case& c = GetParam();
    TempDir dir;
    models::ModelShape shape;
    shape.arch = c.arch;
    shape.n_layer = 4;
    const std::string path = dir.file("model.gguf");
    const Result<void> made = models::make_model(shape, path);
    ASSERT_TRUE(made) << made.error().message;
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 256;
    o.n_threads = 1; // several tests run at once
    o.n_batch = 32;  // prompts in several batches, the last one short
    o.flash_attention = c.flash;
    o.entry = c.entry;
    o.cache_type_k = c.k_type;
    if (c.flash == FlashAttention::on) o.cache_type_v = c.k_type;
    std::vector<int32_t> prompt;
    for (int i = 0; i < 75; ++i) prompt.push_back(5 + i * 7 % 200);
    const RowsDifference d = compare_with_engine(o, prompt, 24, [](size_t) { return true; });
    if (d.error.find("llama.cpp could not make a context") != std::string::npos) GTEST_SKIP() << d.error;
    if (c.flash == FlashAttention::on && std::string(c.k_type) == "f32") {
        EXPECT_NE(d.error.find("-ctk f16"), std::string::npos) << d.error; // refused in words that help
        return;
    }
    ASSERT_EQ(d.error, "");
    EXPECT_EQ(d.not_ok, 0);
    EXPECT_LE(d.max_witness, 1.0);
    EXPECT_EQ(d.witnessed, d.pairs); // 75 + 24 * 2 samples reach every head of a small model
    if (c.flash == FlashAttention::on) return;
    EXPECT_EQ(d.tokens, 99);
    EXPECT_GT(d.rows, 99 * 4);
    EXPECT_LE(d.max_difference, 1e-6);
    EXPECT_EQ(d.max_padding, 0.0);
    EXPECT_LE(d.max_sum_error, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Fidelity, testing::ValuesIn(cases()), name_of);

TEST(FidelityOfTheRealModel, EveryRowOfEveryLayerIsTheEnginesOwn) {
    const Result<std::string> model = models::find_model("");
    if (!model) GTEST_SKIP() << model.error().message;
    SessionOptions o;
    o.model_path = *model;
    o.n_ctx = 512;
    o.n_threads = 1; // several tests run at once
    o.flash_attention = FlashAttention::off;
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    const std::vector<int32_t> prompt = prompt_tokens(**session, 48);
    (*session)->reset();
    const RowsDifference d = compare_with_engine(o, prompt, 16, [](size_t) { return true; });
    ASSERT_EQ(d.error, "");
    EXPECT_EQ(d.tokens, 64);
    EXPECT_EQ(d.rows, 64 * 270);
    EXPECT_LE(d.max_difference, 1e-6);
    EXPECT_EQ(d.max_padding, 0.0);
    EXPECT_EQ(d.not_ok, 0);
}

TEST(Session, BothWaysInGiveTheSameFrames) {
    TempDir dir;
    const std::string path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model({}, path));
    std::vector<std::vector<Frame>> runs;
    for (const Entry entry : {Entry::interposed, Entry::callback}) {
        SessionOptions o;
        o.model_path = path;
        o.n_ctx = 128;
        o.n_threads = 1; // several tests run at once
        o.n_batch = 16;
        o.entry = entry;
        auto session = Session::open(o);
        ASSERT_TRUE(session) << session.error().message;
        std::vector<int32_t> prompt(40, 17);
        for (size_t i = 0; i < prompt.size(); ++i) prompt[i] += int32_t(i % 11);
        GenerateOptions g;
        g.n_predict = 20;
        g.sampling.temperature = 0;
        g.ignore_eos = true;
        std::vector<Frame> frames;
        auto r = (*session)->generate(prompt, g, [&](Frame&& f) -> Result<void> {
            frames.push_back(std::move(f));
            return {};
        });
        ASSERT_TRUE(r) << r.error().message;
        runs.push_back(std::move(frames));
    }
    ASSERT_EQ(runs[0].size(), 60u);
    ASSERT_EQ(runs[1].size(), 60u);
    // All layers' turns asked for at once, or one layer's after the other's: the same heads are proven.
    const auto proven = [](const Frame& f) {
        std::vector<std::pair<int32_t, int32_t>> heads;
        for (const Witness& w : f.witnesses) heads.emplace_back(w.layer, w.head);
        std::sort(heads.begin(), heads.end());
        return heads;
    };
    for (size_t i = 0; i < 60; ++i) {
        EXPECT_EQ(proven(runs[0][i]), proven(runs[1][i])) << "token " << i;
        EXPECT_EQ(runs[0][i].witnesses.size(), i < 40 ? 1u : 2u) << "token " << i;
        EXPECT_EQ(runs[0][i].q, runs[1][i].q) << "token " << i;
        EXPECT_EQ(runs[0][i].k, runs[1][i].k) << "token " << i;
        EXPECT_EQ(runs[0][i].visible, runs[1][i].visible) << "token " << i;
        EXPECT_EQ(runs[0][i].token, runs[1][i].token);
        EXPECT_EQ(runs[0][i].batched, runs[1][i].batched);
    }
}

TEST(Session, WhatCannotBeDoneIsSaidInASentence) {
    TempDir dir;
    const std::string path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model({}, path));
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 64;
    o.n_threads = 1; // several tests run at once
    auto session = Session::open(o);
    ASSERT_TRUE(session);
    const auto generate = [&](std::vector<int32_t> tokens) { return (*session)->generate(tokens, {}, {}); };
    EXPECT_EQ(generate({}).error().kind, ErrorKind::invalid_argument);
    EXPECT_NE(generate({1, 999999}).error().message.find("vocabulary"), std::string::npos);
    EXPECT_NE(generate({-3}).error().message.find("vocabulary"), std::string::npos);
    const int32_t n_ctx = (*session)->n_ctx(); // llama.cpp rounds up
    EXPECT_NE(generate(std::vector<int32_t>(size_t(n_ctx) + 1, 5)).error().message.find("larger -c"),
              std::string::npos);
    o.cache_type_k = "q3_x";
    EXPECT_EQ(Session::open(o).error().kind, ErrorKind::invalid_argument);
    o.model_path = dir.file("missing.gguf");
    EXPECT_EQ(Session::open(o).error().kind, ErrorKind::not_found);
}

TEST(Session, PromptRowsAndStopAreHeeded) {
    TempDir dir;
    const std::string path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model({}, path));
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 128;
    o.n_threads = 1; // several tests run at once
    auto session = Session::open(o);
    ASSERT_TRUE(session);
    GenerateOptions g;
    g.prompt_rows.last = 2;
    g.ignore_eos = true;
    std::atomic<bool> stop{false};
    g.stop = &stop;
    int64_t n = 0;
    auto r = (*session)->generate(std::vector<int32_t>(10, 7), g, [&](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.q.empty(), f.index < 8) << f.index;
        EXPECT_FALSE(f.k.empty());
        if (++n == 15) stop = true;
        return {};
    });
    ASSERT_TRUE(r);
    EXPECT_EQ(r->finish_reason, "stopped");
    EXPECT_EQ(r->n_generated, 5);
}
