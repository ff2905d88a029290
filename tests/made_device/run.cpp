#include "made_device/run.h"

#include "engine/session_impl.h"

#include <attnscope/rows.h>

#include <gtest/gtest.h>

namespace attnscope::test {

ModelShape shape_of(Model model) {
    ModelShape shape;
    shape.arch = model == Model::windows ? "gemma3" : "qwen2";
    shape.n_layer = 3;
    shape.n_head = 4, shape.n_head_kv = 2, shape.head_dim = 32;
    shape.window = 48;
    shape.type = WeightType::f32;
    return shape;
}

Sessions::Sessions(const ModelShape& shape) : path_(dir_.file("model.gguf")) {
    const Result<void> made = make_model(shape, path_);
    EXPECT_TRUE(made) << made.error().message;
}

SessionOptions Sessions::options(const std::string& devices, FlashAttention flash) const {
    SessionOptions o;
    o.model_path = path_;
    o.n_ctx = 512, o.n_batch = 32;
    o.n_threads = 1; // the devices', too: how many there are can change the last digits
    o.n_gpu_layers = 99;
    o.devices = devices;
    o.flash_attention = flash;
    return o;
}

std::vector<int32_t> some_tokens(size_t n, int32_t first) {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < n; ++i) tokens.push_back(first + static_cast<int32_t>(i * 7 % 200));
    return tokens;
}

GenerateOptions greedy(int32_t n) {
    GenerateOptions g;
    g.n_predict = n;
    g.ignore_eos = true;
    g.sampling.temperature = 0;
    return g;
}

Outcome run(Session& session, const std::vector<int32_t>& prompt, const GenerateOptions& options, const std::function<void(Session&)>& text) {
    Outcome outcome;
    const auto frame = [&](Frame&& f) -> Result<void> {
        outcome.frames.push_back(std::move(f));
        return {};
    };
    const auto result = session.generate(prompt, options, frame, [&](int32_t token, const std::string&) {
        outcome.text.push_back(token);
        if (text) text(session);
        return true;
    });
    if (!result) outcome.error = result.error().message;
    outcome.geometry = session.geometry();
    return outcome;
}

Outcome run(const SessionOptions& options, const std::vector<int32_t>& prompt, const GenerateOptions& generate,
        const std::function<void(Session&)>& text) {
    auto session = Session::open(options);
    if (session) return run(**session, prompt, generate, text);
    Outcome failed;
    failed.error = session.error().message;
    return failed;
}

void take_back_one(Session& session) {
    llama_memory_t memory = llama_get_memory(static_cast<engine::SessionImpl&>(session).context());
    const llama_pos last = llama_memory_seq_pos_max(memory, 0);
    EXPECT_TRUE(llama_memory_seq_rm(memory, 0, last, -1));
}

void expect_same(const Outcome& expected, const Outcome& actual, size_t n_frames) {
    EXPECT_EQ(expected.error, "");
    EXPECT_EQ(actual.error, "");
    EXPECT_EQ(expected.text, actual.text);
    ASSERT_EQ(expected.frames.size(), n_frames);
    ASSERT_EQ(actual.frames.size(), n_frames);
    for (size_t i = 0; i < n_frames; ++i) {
        const Frame &a = expected.frames[i], &b = actual.frames[i];
        EXPECT_EQ(a.index, b.index) << i;
        EXPECT_EQ(a.token, b.token) << i;
        EXPECT_EQ(a.position, b.position) << i;
        EXPECT_EQ(a.kind, b.kind) << i;
        EXPECT_EQ(a.batched, b.batched) << i;
        EXPECT_TRUE(a.visible == b.visible) << "columns that frame " << i << " sees";
        EXPECT_TRUE(a.q == b.q) << "queries of frame " << i << ", " << b.q.size() << " bytes";
        EXPECT_TRUE(a.k == b.k) << "keys of frame " << i << ", " << b.k.size() << " bytes";
        EXPECT_EQ(b.verdict, verdict_ok) << i << ": " << verdict_text(b.verdict);
        EXPECT_FALSE(b.witnesses.empty()) << i;
        if (testing::Test::HasFailure()) return; // one frame's worth of words is enough
    }
}

std::vector<double> mean_of_rows(const Outcome& outcome, size_t index) {
    const Geometry& g = outcome.geometry;
    const Frame& f = outcome.frames[index];
    const auto n = static_cast<int64_t>(index) + 1;
    std::vector<double> mean(size_t(n), 0.0);
    for (int32_t l = 0; l < g.n_layer(); ++l) {
        const LayerInfo& info = g.layers[size_t(l)];
        std::vector<KeyBlock> keys;
        for (int64_t j = 0; j < n; ++j) keys.push_back({outcome.frames[size_t(j)].k.data() + g.k_offset(info.k_layer), j, 1, info.k_bytes()});
        RowsRequest r;
        r.layer = &info;
        r.q = f.q.data() + g.q_offset(l);
        r.keys = keys;
        r.visible = f.visible[size_t(info.mask_group)];
        r.n_columns = n;
        r.position = f.position;
        r.batched = f.batched;
        r.head_end = info.n_head;
        std::vector<float> rows(size_t(info.n_head * n));
        const Result<void> computed = attention_rows(r, rows);
        EXPECT_TRUE(computed) << computed.error().message;
        for (size_t i = 0; i < rows.size(); ++i) mean[i % size_t(n)] += static_cast<double>(rows[i]) / static_cast<double>(g.n_rows());
    }
    return mean;
}

void OnMadeDevices::SetUp() { MadeDevice::steer().reset(); }
void OnMadeDevices::TearDown() { MadeDevice::steer().reset(); }

} // namespace attnscope::test
