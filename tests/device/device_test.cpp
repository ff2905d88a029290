// Captures from GPUs, held against the engine's own kq_soft_max on the same GPU. Without a GPU they skip.
#include "models/model_make.h"
#include "support/engine_rows.h"
#include "support/temp_dir.h"

#include <ggml-backend.h>
#include <gtest/gtest.h>

#include <cmath>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::vector<std::string> gpus() {
    std::vector<std::string> names;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU)
            names.emplace_back(ggml_backend_dev_name(device));
    }
    return names;
}

// Many heads on few KV heads, as in the 7B shape, and small otherwise.
std::string model(const TempDir& dir) {
    models::ModelShape shape;
    shape.arch = "qwen2";
    shape.n_layer = 6;
    shape.n_head = 14;
    shape.n_head_kv = 2;
    shape.head_dim = 64;
    std::string path = dir.file("model.gguf");
    const Result<void> made = models::make_model(shape, path);
    EXPECT_TRUE(made) << made.error().message;
    return path;
}

std::vector<int32_t> prompt(size_t n) {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(5 + i * 7 % 200));
    return tokens;
}

std::vector<Frame> frames_of(const SessionOptions& o, const std::vector<int32_t>& tokens, int n) {
    auto session = Session::open(o);
    EXPECT_TRUE(session) << session.error().message;
    std::vector<Frame> frames;
    if (!session) return frames;
    GenerateOptions g;
    g.n_predict = n;
    g.ignore_eos = true;
    g.sampling.temperature = 0;
    const auto r = (*session)->generate(tokens, g, [&](Frame&& f) -> Result<void> {
        frames.push_back(std::move(f));
        return {};
    });
    EXPECT_TRUE(r) << r.error().message;
    return frames;
}

struct Case {
    const char* k_type;
    FlashAttention flash;
    Entry entry;
    double tolerance; // of rows: docs/fidelity.md
};

void PrintTo(const Case& c, std::ostream* out) { // or a test's name shows its bytes
    *out << c.k_type << (c.flash == FlashAttention::on ? "_flash" : "")
         << (c.entry == Entry::callback ? "_callback" : "");
}

} // namespace

class Gpu : public testing::TestWithParam<Case> {};

TEST_P(Gpu, RowsAreTheEnginesWithinTheRoundingOfItsKernelsAndEveryTokenIsProven) {
    if (gpus().empty()) GTEST_SKIP() << "no GPU on this machine";
    const Case& c = GetParam();
    TempDir dir;
    SessionOptions o;
    o.model_path = model(dir);
    o.n_ctx = 512;
    o.n_batch = 64;
    o.devices = gpus().front();
    o.flash_attention = c.flash;
    o.entry = c.entry;
    o.cache_type_k = c.k_type;
    if (c.flash == FlashAttention::on) o.cache_type_v = c.k_type;
    o.device_mean = true;
    const RowsDifference d = compare_with_engine(o, prompt(150), 60, [](size_t) { return true; });
    ASSERT_EQ(d.error, "");
    EXPECT_EQ(d.not_ok, 0);
    EXPECT_LE(d.max_witness, 1.0);
    EXPECT_EQ(d.witnessed, d.pairs);
    if (c.flash == FlashAttention::on) return;
    EXPECT_EQ(d.tokens, 210);
    EXPECT_LE(d.max_difference, c.tolerance);
    EXPECT_LE(d.max_padding, 0.0);
    EXPECT_LE(d.max_sum_error, 1e-6);
    if (std::string(c.k_type) == "f16" && c.entry == Entry::interposed) {
        EXPECT_EQ(d.means, 60);
        EXPECT_LE(d.max_mean, 1e-6);
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Gpu,
                         testing::Values(Case{"f16", FlashAttention::off, Entry::interposed, 5e-3},
                                         Case{"f16", FlashAttention::on, Entry::interposed, 0},
                                         Case{"q8_0", FlashAttention::off, Entry::interposed, 2e-2},
                                         Case{"q8_0", FlashAttention::on, Entry::interposed, 0},
                                         Case{"f16", FlashAttention::off, Entry::callback, 5e-3},
                                         Case{"f16", FlashAttention::on, Entry::callback, 0}));

TEST(Gpus, LayersOnTheCpuAndOnTheGpuAreCapturedAlike) {
    if (gpus().empty()) GTEST_SKIP() << "no GPU on this machine";
    TempDir dir;
    SessionOptions o;
    o.model_path = model(dir);
    o.n_ctx = 256;
    o.n_batch = 64;
    o.devices = gpus().front();
    o.n_gpu_layers = 3;
    const std::vector<Frame> frames = frames_of(o, prompt(100), 30);
    ASSERT_EQ(frames.size(), 130u);
    for (const Frame& f : frames) EXPECT_EQ(f.verdict, verdict_ok) << f.index << ": " << verdict_text(f.verdict);
}

TEST(Gpus, TwoGiveTheTextAndTheQueriesOfOne) {
    if (gpus().size() < 2) GTEST_SKIP() << "fewer than two GPUs on this machine";
    TempDir dir;
    SessionOptions o;
    o.model_path = model(dir);
    o.n_ctx = 512;
    o.n_batch = 64;
    o.devices = gpus()[0];
    const std::vector<Frame> one = frames_of(o, prompt(150), 60);
    o.devices = gpus()[0] + "," + gpus()[1];
    const std::vector<Frame> two = frames_of(o, prompt(150), 60);
    ASSERT_EQ(one.size(), two.size());
    for (size_t i = 0; i < one.size(); ++i) {
        EXPECT_EQ(one[i].token, two[i].token) << i;
        EXPECT_EQ(one[i].q, two[i].q) << i;
        EXPECT_EQ(one[i].k, two[i].k) << i;
        EXPECT_EQ(two[i].verdict, verdict_ok) << i;
    }
}
