// The mean that a GPU computes beside the model, and what is left out of a prompt there. Without a GPU they skip.
#include "models/model_make.h"
#include "support/mean_trial.h"
#include "support/temp_dir.h"

#include <attnscope/session.h>

#include <ggml-backend.h>
#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::string gpus(size_t at_least) {
    std::string names;
    size_t n = 0;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_GPU || n == at_least) continue;
        if (n++) names += ',';
        names += ggml_backend_dev_name(device);
    }
    return n == at_least ? names : "";
}

std::vector<int32_t> prompt(size_t n) {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(5 + i * 7 % 200));
    return tokens;
}

struct Case {
    const char* name;
    const char* arch;
    int32_t head_dim;
    const char* k_type;
    size_t n_gpus;
    bool subset;
    double tolerance; // how far one float32 computation may lie from another; ggml's use fewer digits of Q and K
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name;
} // or a test's name shows its bytes

class DeviceMeans : public testing::TestWithParam<Case> {};

} // namespace

TEST_P(DeviceMeans, AreThoseOfTheFramesOwnRows) {
    const Case& c = GetParam();
    const std::string devices = gpus(c.n_gpus);
    if (devices.empty()) GTEST_SKIP() << "fewer than " << c.n_gpus << " GPUs on this machine";
    MeanTrial trial;
    trial.shape.arch = c.arch;
    trial.shape.n_layer = 6, trial.shape.n_head = 8, trial.shape.n_head_kv = 2, trial.shape.head_dim = c.head_dim;
    trial.shape.window = 64; // in a ring of 64 + 32 cells, rounded up, that comes round
    trial.session.n_ctx = 1024, trial.session.n_batch = 32;
    trial.session.devices = devices;
    trial.session.cache_type_k = c.k_type;
    if (c.subset) trial.layers = {1, 4}, trial.heads = {0, 3, 6};
    const auto outcome = try_means(std::move(trial));
    ASSERT_TRUE(outcome) << outcome.error().message;
    EXPECT_EQ(outcome->n_means, 150);
    EXPECT_EQ(outcome->n_wrong, 0);
    EXPECT_EQ(outcome->n_not_ok, 0);
    EXPECT_LE(outcome->worst, c.tolerance);
    RecordProperty("worst", std::to_string(outcome->worst));
}

INSTANTIATE_TEST_SUITE_P(Kinds, DeviceMeans,
                         testing::Values(Case{"Kernel", "qwen2", 64, "f16", 1, false, 1e-6},
                                         Case{"KernelOfSome", "qwen2", 128, "f16", 1, true, 1e-6},
                                         Case{"KernelOf128", "qwen2", 128, "f16", 1, false, 1e-6},
                                         Case{"KernelOf256", "qwen2", 256, "f16", 1, false, 1e-6},
                                         Case{"KernelWithWindows", "gemma3", 64, "f16", 1, false, 1e-6},
                                         Case{"Operations", "qwen2", 96, "f16", 1, false, 1e-5},
                                         Case{"OperationsOnQ8", "qwen2", 64, "q8_0", 1, true, 1e-4},
                                         Case{"OperationsWithWindows", "gemma3", 96, "f16", 1, true, 1e-5},
                                         Case{"OperationsWithSinks", "gpt-oss", 96, "f16", 1, false, 1e-5},
                                         Case{"TwoGpus", "qwen2", 64, "f16", 2, true, 1e-6}),
                         [](const auto& c) { return std::string(c.param.name); });

TEST(Gpus, PromptRowsThatAreNotKeptLeaveTheOthersAsTheyWere) {
    const std::string devices = gpus(1);
    if (devices.empty()) GTEST_SKIP() << "no GPU on this machine";
    for (const char* k_type : {"f16", "q8_0"}) {
        TempDir dir;
        models::ModelShape shape;
        shape.arch = "qwen2";
        shape.n_head = 8, shape.n_head_kv = 2, shape.head_dim = 64;
        SessionOptions o;
        o.model_path = dir.file("model.gguf");
        ASSERT_TRUE(models::make_model(shape, o.model_path));
        o.n_ctx = 512, o.n_batch = 64;
        o.devices = devices;
        o.cache_type_k = k_type;
        const auto frames_with = [&](int64_t last) {
            std::vector<Frame> frames;
            auto session = Session::open(o);
            EXPECT_TRUE(session) << session.error().message;
            if (!session) return frames;
            GenerateOptions g;
            g.n_predict = 3;
            g.ignore_eos = true;
            g.sampling.temperature = 0;
            g.prompt_rows.last = last;
            const auto r = (*session)->generate(prompt(200), g, [&](Frame&& f) -> Result<void> {
                frames.push_back(std::move(f));
                return {};
            });
            EXPECT_TRUE(r) << r.error().message;
            return frames;
        };
        const std::vector<Frame> all = frames_with(INT64_MAX), some = frames_with(100), none = frames_with(0);
        ASSERT_EQ(all.size(), 203u);
        ASSERT_EQ(some.size(), 203u);
        ASSERT_EQ(none.size(), 203u);
        for (size_t i = 0; i < all.size(); ++i) {
            EXPECT_FALSE(all[i].q.empty());
            EXPECT_EQ(some[i].q, i >= 100 ? all[i].q : std::vector<uint8_t>()) << i;
            EXPECT_EQ(none[i].q, i >= 200 ? all[i].q : std::vector<uint8_t>()) << i;
            EXPECT_EQ(none[i].k, all[i].k) << i;
            EXPECT_FALSE(none[i].witnesses.empty()) << i;
            EXPECT_EQ(some[i].verdict, verdict_ok) << i << ": " << verdict_text(some[i].verdict);
            EXPECT_EQ(none[i].verdict, verdict_ok) << i << ": " << verdict_text(none[i].verdict);
        }
    }
}
