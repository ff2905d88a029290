// The mean that the engine's own threads compute inside a graph on a CPU.
#include "support/mean_trial.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Case {
    const char* name;
    const char* arch;
    int32_t head_dim, n_head, n_head_kv;
    const char* k_type;
    FlashAttention flash;
    int32_t n_threads;
    bool subset;
};
void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name;
}

class HostMeans : public testing::TestWithParam<Case> {};

constexpr FlashAttention on = FlashAttention::on, off = FlashAttention::off;

} // namespace

TEST_P(HostMeans, AreThoseOfTheFramesOwnRows) {
    const Case& c = GetParam();
    MeanTrial trial;
    trial.shape.arch = c.arch;
    trial.shape.n_layer = 5, trial.shape.n_head = c.n_head, trial.shape.n_head_kv = c.n_head_kv,
    trial.shape.head_dim = c.head_dim;
    trial.shape.window = 64; // in a ring of 64 + 32 cells, rounded up, that comes round
    trial.session.n_ctx = 1024, trial.session.n_batch = 32;
    trial.session.devices = "none";
    trial.session.cache_type_k = c.k_type;
    if (std::string(c.k_type) == "q8_0") trial.session.cache_type_v = c.flash == on ? "q8_0" : "f16";
    trial.session.flash_attention = c.flash;
    trial.session.n_threads = c.n_threads;
    trial.n_prompt = 450; // from 512 cells on the engine's flash attention shares them out among its threads
    if (c.subset) trial.layers = {1, 4}, trial.heads = {0, 3};
    const auto outcome = try_means(std::move(trial));
    ASSERT_TRUE(outcome) << outcome.error().message;
    EXPECT_EQ(outcome->n_means, 150);
    EXPECT_EQ(outcome->n_wrong, 0);
    EXPECT_EQ(outcome->n_not_ok, 0);
    EXPECT_LE(outcome->worst, 1e-6);
    RecordProperty("worst", std::to_string(outcome->worst));
}

INSTANTIATE_TEST_SUITE_P(Kinds, HostMeans,
                         testing::Values(Case{"Flash", "qwen2", 64, 9, 3, "f16", on, 2, false},
                                         Case{"NoFlash", "qwen2", 64, 9, 3, "f16", off, 2, false},
                                         Case{"OneThread", "llama", 128, 4, 4, "f16", on, 1, false},
                                         Case{"ThreeThreads", "llama", 32, 8, 1, "f16", on, 3, false},
                                         Case{"Some", "qwen2", 64, 8, 2, "f16", on, 2, true},
                                         Case{"OddHeads", "qwen2", 72, 4, 2, "f16", on, 2, false},
                                         Case{"F32", "llama", 64, 4, 2, "f32", off, 2, false},
                                         Case{"Bf16", "llama", 64, 4, 2, "bf16", off, 2, false},
                                         Case{"Q8", "qwen2", 64, 8, 2, "q8_0", on, 2, true},
                                         Case{"Windows", "gemma3", 64, 4, 2, "f16", on, 2, false},
                                         Case{"Softcap", "gemma2", 64, 4, 2, "f16", off, 2, false},
                                         Case{"Sinks", "gpt-oss", 64, 8, 2, "f16", on, 2, false}),
                         [](const auto& c) { return std::string(c.param.name); });

// Graphs are used again from token to token: one that was built while nobody wanted a mean must give one, and the other way round.
TEST(HostMean, ComesAndGoesWithTheRequest) {
    TempDir dir;
    models::ModelShape shape;
    SessionOptions o;
    o.model_path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model(shape, o.model_path));
    o.n_ctx = 256, o.devices = "none", o.device_mean = true;
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    int32_t token = 7;
    for (const bool wanted : {false, true, false, true}) {
        GenerateOptions g;
        g.n_predict = 4, g.ignore_eos = true, g.sampling.temperature = 0;
        g.device_mean = wanted;
        int n = 0, n_means = 0;
        const auto r = (*session)->generate({&token, 1}, g, [&](CapturedFrame&& f) -> Result<void> {
            ++n;
            n_means += !f.mean.empty();
            double sum = 0;
            for (const float w : f.mean) sum += static_cast<double>(w);
            if (!f.mean.empty()) {
                EXPECT_NEAR(sum, 1.0, 1e-5);
            }
            return {};
        });
        ASSERT_TRUE(r) << r.error().message;
        EXPECT_EQ(n_means, wanted ? n : 0);
        token += 3;
    }
}

TEST(HostMean, IsOfTheFramesItIsWantedOf) {
    TempDir dir;
    SessionOptions o;
    o.model_path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model(models::ModelShape{}, o.model_path));
    o.n_ctx = 256, o.devices = "none", o.device_mean = true;
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions g;
    g.n_predict = 9, g.ignore_eos = true;
    g.mean_wanted = [](int64_t index) { return index % 3 == 1; };
    std::vector<int64_t> with;
    const int32_t token = 7;
    const auto r = (*session)->generate({&token, 1}, g, [&](CapturedFrame&& f) -> Result<void> {
        if (!f.mean.empty()) with.push_back(f.frame.index);
        return {};
    });
    ASSERT_TRUE(r) << r.error().message;
    EXPECT_EQ(with, (std::vector<int64_t>{1, 4, 7}));
}

TEST(HostMean, IsLeftToOthersWhereDistancesAreWeighed) { // ALiBi
    TempDir dir;
    models::ModelShape shape;
    shape.arch = "bloom";
    shape.n_head_kv = 0;
    SessionOptions o;
    o.model_path = dir.file("model.gguf");
    const auto made = models::make_model(shape, o.model_path);
    ASSERT_TRUE(made) << made.error().message;
    o.n_ctx = 256, o.devices = "none", o.device_mean = true;
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions g;
    g.n_predict = 3, g.ignore_eos = true;
    const std::vector<int32_t> prompt = {3, 4, 5};
    const auto r = (*session)->generate(prompt, g, [&](CapturedFrame&& f) -> Result<void> {
        EXPECT_TRUE(f.mean.empty());
        EXPECT_EQ(f.frame.verdict, verdict_ok);
        return {};
    });
    ASSERT_TRUE(r) << r.error().message;
}
