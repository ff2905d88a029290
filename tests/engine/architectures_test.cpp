// Attention of kinds that few architectures have, in models that llama.cpp itself made.
#include "models/model_make.h"

#include "support/arch_model.h"
#include "support/engine_rows.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <set>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Kind {
    const char* arch;
    int n_layer, n_k; // layers that attend, and of them those that store keys of their own
};

void PrintTo(const Kind& kind, std::ostream* out) {
    *out << kind.arch;
}

std::vector<int32_t> some_tokens(int n) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back(5 + i * 7 % 101);
    return tokens;
}

SessionOptions options(const std::string& path, FlashAttention flash, Entry entry) {
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 256;
    o.n_batch = 32;
    o.n_threads = 1; // several tests run at once
    o.flash_attention = flash;
    o.entry = entry;
    return o;
}

} // namespace

class Architectures : public testing::TestWithParam<Kind> {};

TEST_P(Architectures, EveryRowIsTheEnginesOwnAndEveryFrameIsOk) {
    const Kind& kind = GetParam();
    if (std::string(ATTNSCOPE_ARCH_MODELS).empty()) GTEST_SKIP() << "the engine's sources came without their tests";
    TempDir dir;
    ASSERT_TRUE(make_arch_models(ATTNSCOPE_ARCH_MODELS, dir.file(""), kind.arch));
    const std::string path = dir.file(std::string(kind.arch) + ".gguf");
    for (const FlashAttention flash : {FlashAttention::off, FlashAttention::on}) {
        for (const Entry entry : {Entry::interposed, Entry::callback}) {
            SCOPED_TRACE(std::string(flash == FlashAttention::on ? "flash" : "plain") +
                         (entry == Entry::callback ? " callback" : " interposed"));
            const SessionOptions o = options(path, flash, entry);
            {
                auto session = Session::open(o);
                ASSERT_TRUE(session) << session.error().message;
                const Geometry& g = (*session)->geometry();
                ASSERT_EQ(g.n_layer(), kind.n_layer);
                int n_k = 0;
                for (int32_t l = 0; l < g.n_layer(); ++l) {
                    EXPECT_EQ(g.layers[size_t(l)].absent, "") << l;
                    n_k += g.owns_k(l);
                }
                EXPECT_EQ(n_k, kind.n_k); // what is shared is kept once
            }
            // Past the sliding window of 32.
            const RowsDifference d = compare_with_engine(o, some_tokens(75), 12, [](size_t) { return true; });
            ASSERT_EQ(d.error, "");
            EXPECT_EQ(d.not_ok, 0);
            EXPECT_LE(d.max_witness, 1.0);
            EXPECT_GT(d.witnessed, 0);
            if (flash == FlashAttention::on) continue;
            EXPECT_EQ(d.tokens, 87);
            EXPECT_LE(d.max_difference, 1e-6);
            EXPECT_EQ(d.max_padding, 0.0);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Architectures,
                         testing::Values(Kind{"gemma3n", 22, 20}, // keys of layers 18 and 19 are read by 20 and 21
                                         Kind{"gemma4", 5, 3}, Kind{"deepseek2", 2, 2},
                                         Kind{"mistral4", 2, 2},   // V is a part of K
                                         Kind{"deepseek32", 2, 2}, // the mask is computed by the graph
                                         Kind{"gemma3", 2, 2}, Kind{"gpt-oss", 2, 2}, Kind{"lfm2", 1, 1},
                                         Kind{"qwen3next", 1, 1}),
                         [](const auto& made) {
                             std::string name = made.param.arch;
                             for (char& c : name) c = c == '-' ? '_' : c;
                             return name;
                         });

// The generator's sparse models choose all there is; this one chooses 64 of up to 162 tokens, each for itself.
TEST(Architectures, RowsOfTokensThatChooseWhatTheySeeAreTheEnginesOwn) {
    const TempDir dir;
    const std::string path = dir.file("deepseek32.gguf");
    models::ModelShape shape;
    shape.arch = "deepseek32";
    ASSERT_TRUE(models::make_model(shape, path));
    for (const Entry entry : {Entry::interposed, Entry::callback}) {
        SCOPED_TRACE(entry == Entry::callback ? "callback" : "interposed");
        const SessionOptions o = options(path, FlashAttention::off, entry);
        const RowsDifference d = compare_with_engine(o, some_tokens(150), 12, [](size_t) { return true; });
        ASSERT_EQ(d.error, "");
        EXPECT_EQ(d.not_ok, 0);
        EXPECT_EQ(d.tokens, 162);
        EXPECT_LE(d.max_difference, 1e-6);
    }
    auto session = Session::open(options(path, FlashAttention::on, Entry::interposed));
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions generate;
    generate.n_predict = 12;
    generate.ignore_eos = true;
    std::set<std::vector<std::pair<int64_t, int64_t>>> choices; // of layers and tokens
    ASSERT_TRUE((*session)->generate(some_tokens(150), generate, [&](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.verdict, verdict_ok) << f.index << " " << verdict_text(f.verdict);
        for (const Ranges& seen : f.visible) {
            EXPECT_EQ(ranges_count(seen), std::min<int64_t>(f.index + 1, 64)) << f.index;
            if (f.index < 64) continue;
            std::vector<std::pair<int64_t, int64_t>> choice;
            for (const Range& r : seen) choice.emplace_back(r.begin, r.end);
            choices.insert(choice);
        }
        return {};
    }));
    EXPECT_GT(choices.size(), 100u);
}

// A layer that cannot be captured costs the others nothing.
TEST(Architectures, AModelOfWhichOneLayerIsAbsentHasGoodVerdicts) {
    if (std::string(ATTNSCOPE_ARCH_MODELS).empty()) GTEST_SKIP() << "the engine's sources came without their tests";
    TempDir dir;
    ASSERT_TRUE(make_arch_models(ATTNSCOPE_ARCH_MODELS, dir.file(""), "deepseek4"));
    const SessionOptions o = options(dir.file("deepseek4.gguf"), FlashAttention::on, Entry::interposed);
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    const Geometry& g = (*session)->geometry();
    int absent = 0;
    for (const LayerInfo& l : g.layers) absent += !l.captured();
    ASSERT_GT(absent, 0); // else this test needs another model
    GenerateOptions generate;
    generate.n_predict = 8;
    generate.ignore_eos = true;
    auto result = (*session)->generate(some_tokens(40), generate, [](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.verdict, verdict_ok) << f.index << ": " << verdict_text(f.verdict);
        return {};
    });
    EXPECT_TRUE(result) << result.error().message;
}
