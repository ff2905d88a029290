// What a model that reads with an encoder and writes with a decoder (T5) does at its limits: types of cache, long texts.
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/session.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

using namespace attnscope;

namespace {

constexpr int n_text = 40, n_written = 6;

class EncoderDecoderLimits : public testing::Test {
protected:
    void SetUp() override {
        models::ModelShape shape;
        shape.arch = "t5";
        shape.n_layer = 2;
        const auto made = models::make_model(shape, path_);
        ASSERT_TRUE(made) << made.error().message;
        for (int i = 0; i < n_text; ++i) text_.push_back(5 + i * 7 % 101);
        options_.model_path = path_;
        options_.n_ctx = 128;
        options_.n_threads = 1;
        options_.encoder_decoder = true;
        greedy_.n_predict = n_written;
        greedy_.ignore_eos = true;
        greedy_.sampling.temperature = 0;
    }
    // Every layer is there, every token proven, and every half of the model among what proves them.
    void expect_whole(const SessionOptions& o) {
        auto session = Session::open(o);
        ASSERT_TRUE(session) << session.error().message;
        std::vector<int64_t> proofs(3);
        int64_t n = 0;
        const auto done = (*session)->generate(text_, greedy_, [&](Frame&& f) -> Result<void> {
            EXPECT_EQ(f.verdict, verdict_ok) << f.index << ": " << verdict_text(f.verdict);
            const Geometry& g = (*session)->geometry();
            for (const Witness& w : f.witnesses)
                ++proofs[size_t(g.layers[size_t(w.layer)].role) - size_t(LayerRole::encoder)];
            ++n;
            return {};
        });
        ASSERT_TRUE(done) << done.error().message;
        EXPECT_EQ(n, n_text + 1 + n_written);
        EXPECT_EQ((*session)->geometry().n_layer(), 6);
        for (const LayerInfo& layer : (*session)->geometry().layers) EXPECT_EQ(layer.absent, "");
        for (const int64_t of_role : proofs) EXPECT_GT(of_role, 0);
    }

    const test::TempDir dir_;
    const std::string path_ = dir_.file("t5.gguf");
    std::vector<int32_t> text_;
    SessionOptions options_;
    GenerateOptions greedy_;
};

} // namespace

// Every type of cache, kind of attention and way in.
TEST_F(EncoderDecoderLimits, EveryTypeOfCacheGivesGoodRowsOrASentence) {
    for (const char* k : {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"}) {
        for (const char* v : {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"}) {
            for (const FlashAttention flash : {FlashAttention::off, FlashAttention::on, FlashAttention::automatic}) {
                for (const Entry entry : {Entry::interposed, Entry::callback}) {
                    SCOPED_TRACE(std::string(k) + "/" + v + " " + flash_attention_name(flash) +
                                 (entry == Entry::callback ? " callback" : " interposed"));
                    SessionOptions o = options_;
                    o.cache_type_k = k, o.cache_type_v = v;
                    o.flash_attention = flash, o.entry = entry;
                    if (v[0] != 'q' && v[0] != 'i') {
                        expect_whole(o);
                        continue;
                    }
                    const auto refused = Session::open(o); // llama.cpp writes beyond its memory with these
                    ASSERT_FALSE(refused);
                    EXPECT_EQ(refused.error().kind, ErrorKind::unsupported);
                    EXPECT_NE(refused.error().message.find("-ctv f16"), std::string::npos) << refused.error().message;
                }
            }
        }
    }
}

// Heads of 80 elements end inside of a block of 32: llama.cpp's decoder then computes NaN, or what looks like numbers.
TEST_F(EncoderDecoderLimits, HeadsThatEndInsideOfABlockAreRefused) {
    models::ModelShape shape;
    shape.arch = "t5";
    shape.n_layer = 2;
    shape.head_dim = 80;
    ASSERT_TRUE(models::make_model(shape, path_));
    for (const char* k : {"q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"}) {
        options_.cache_type_k = k;
        for (const FlashAttention flash : {FlashAttention::off, FlashAttention::on, FlashAttention::automatic}) {
            options_.flash_attention = flash;
            const auto refused = Session::open(options_);
            ASSERT_FALSE(refused) << k;
            EXPECT_EQ(refused.error().kind, ErrorKind::unsupported);
            EXPECT_NE(refused.error().message.find("-ctk f16"), std::string::npos) << refused.error().message;
        }
    }
    for (const char* k : {"f16", "bf16", "f32"}) {
        options_.cache_type_k = k;
        options_.flash_attention = FlashAttention::automatic;
        expect_whole(options_);
    }
}

TEST_F(EncoderDecoderLimits, WhatIsOnlyReadHasNoCache) {
    options_.only_read = true;
    options_.cache_type_v = "q8_0";
    options_.flash_attention = FlashAttention::on;
    greedy_.n_predict = 0;
    auto session = Session::open(options_);
    ASSERT_TRUE(session) << session.error().message;
    int64_t n = 0;
    ASSERT_TRUE((*session)->generate(text_, greedy_, [&](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.verdict, verdict_ok) << verdict_text(f.verdict);
        ++n;
        return {};
    }));
    EXPECT_EQ(n, n_text);
}

// The engine makes contexts of whole multiples of 256 positions, and a text may fill the one that there is.
TEST_F(EncoderDecoderLimits, ATextThatIsLongerThanTheContextIsRefusedInWords) {
    const std::vector<int32_t> short_text = text_;
    for (int i = n_text; i < 257; ++i) text_.push_back(5 + i * 7 % 101);
    for (const int n_ctx : {1, 8, 255, 256}) {
        for (const int n_batch : {1, 16, 512}) {
            options_.n_ctx = n_ctx, options_.n_batch = n_batch;
            auto session = Session::open(options_);
            ASSERT_TRUE(session) << session.error().message;
            EXPECT_EQ((*session)->n_ctx(), 256);
            const auto refused = (*session)->generate(text_, greedy_, {}, {});
            ASSERT_FALSE(refused) << n_ctx << " " << n_batch;
            EXPECT_EQ(refused.error().kind, ErrorKind::invalid_argument);
            EXPECT_NE(refused.error().message.find("at most 256 of them; give a larger -c"), std::string::npos)
                << refused.error().message;
            const std::vector<int32_t> fits(text_.begin(), text_.end() - 1);
            const auto read = (*session)->generate(fits, greedy_, {}, {});
            EXPECT_TRUE(read) << read.error().message;
        }
    }
    text_ = short_text;
    options_.n_ctx = n_text, options_.n_batch = 4; // the encoder reads at once, whatever the batch
    expect_whole(options_);
}

TEST_F(EncoderDecoderLimits, NoNumberOfTokensIsLessThanWithoutEnd) {
    auto session = Session::open(options_);
    ASSERT_TRUE(session) << session.error().message;
    for (const int n : {-2, -100}) {
        greedy_.n_predict = n;
        const auto refused = (*session)->generate(text_, greedy_, {}, {});
        ASSERT_FALSE(refused) << n;
        EXPECT_EQ(refused.error().kind, ErrorKind::invalid_argument);
        EXPECT_NE(refused.error().message.find("-1 goes on"), std::string::npos) << refused.error().message;
    }
}

// Positions of the decoder begin anew: it writes as many as the context holds, whatever the text took.
TEST_F(EncoderDecoderLimits, TheDecoderEndsWithItsContext) {
    options_.n_ctx = n_text;
    auto session = Session::open(options_);
    ASSERT_TRUE(session) << session.error().message;
    greedy_.n_predict = -1;
    int64_t n = 0, not_ok = 0;
    const auto done = (*session)->generate(text_, greedy_, [&](Frame&& f) -> Result<void> {
        ++n;
        not_ok += f.verdict != verdict_ok;
        return {};
    });
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(done->finish_reason, "context");
    EXPECT_EQ(n, n_text + (*session)->n_ctx());
    EXPECT_EQ(not_ok, 0);
}
