#include "made_device/run.h"

#include "attention/fingerprint.h"
#include "engine/session_impl.h"

#include <attnscope/rows.h>

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace attnscope::test {

models::ModelShape shape_of(Model model) {
    models::ModelShape shape;
    shape.arch = model == Model::windows ? "gemma3" : "qwen2";
    shape.n_layer = 3;
    shape.n_head = 4, shape.n_head_kv = 2, shape.head_dim = 32;
    shape.window = 48;
    shape.type = models::WeightType::f32;
    return shape;
}

Sessions::Sessions(const models::ModelShape& shape) : path_(dir_.file("model.gguf")) {
    const Result<void> made = models::make_model(shape, path_);
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

void round_queries(Outcome& outcome) {
    for (Frame& f : outcome.frames) {
        std::vector<uint8_t> rounded;
        for (int32_t l = 0; !f.q.empty() && l < outcome.geometry.n_layer(); ++l) {
            const LayerInfo& layer = outcome.geometry.layers[size_t(l)];
            const uint8_t* q = f.q.data() + outcome.geometry.q_offset(l);
            if (layer.q_type != DType::f32 || layer.k_type != DType::f16) {
                rounded.insert(rounded.end(), q, q + layer.q_bytes());
                continue;
            }
            for (size_t i = 0; i < layer.q_bytes(); i += sizeof(float)) {
                float x = 0;
                std::memcpy(&x, q + i, sizeof x);
                const ggml_fp16_t half = ggml_fp32_to_fp16(x);
                const auto* bytes = static_cast<const uint8_t*>(static_cast<const void*>(&half));
                rounded.insert(rounded.end(), bytes, bytes + sizeof half);
            }
        }
        f.q = std::move(rounded);
    }
    for (LayerInfo& layer : outcome.geometry.layers) {
        if (layer.k_type == DType::f16) layer.q_type = DType::f16;
    }
}

Outcome run(Session& session, const std::vector<int32_t>& prompt, const GenerateOptions& options,
            const std::function<void(Session&)>& text) {
    Outcome outcome;
    const auto frame = [&](CapturedFrame&& f) -> Result<void> {
        outcome.means.push_back(f.mean);
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
    round_queries(outcome);
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

void forget_first(Session& session, int32_t n) {
    llama_memory_t memory = llama_get_memory(static_cast<engine::SessionImpl&>(session).context());
    const llama_pos first = llama_memory_seq_pos_min(memory, 0);
    EXPECT_TRUE(llama_memory_seq_rm(memory, 0, first, first + n));
    llama_memory_seq_add(memory, 0, first + n, -1, -n);
}

namespace {

std::vector<float> rows_of(const Outcome& outcome, size_t index, int32_t layer, int32_t head_begin, int32_t head_end) {
    const Geometry& g = outcome.geometry;
    const LayerInfo& info = g.layers[size_t(layer)];
    const Frame& f = outcome.frames[index];
    const Ranges& visible = f.visible[size_t(info.mask_group)];
    const int64_t n = std::max(static_cast<int64_t>(index) + 1, visible.empty() ? 0 : visible.back().end);
    std::vector<KeyBlock> keys;
    for (int64_t j = 0; j < n; ++j)
        keys.push_back({outcome.frames[size_t(j)].k.data() + g.k_offset(info.k_layer), j, 1, info.k_bytes()});
    RowsRequest r;
    r.layer = &info;
    r.q = f.q.data() + g.q_offset(layer);
    r.keys = keys;
    r.visible = visible;
    r.n_columns = n;
    r.position = f.position;
    r.batched = f.batched;
    r.head_begin = head_begin, r.head_end = head_end;
    std::vector<float> rows(size_t((head_end - head_begin) * n));
    const Result<void> computed = attention_rows(r, rows);
    EXPECT_TRUE(computed) << computed.error().message;
    return rows;
}

// The rows that were proven are those that the frames give: proofs looked at the keys of their token's time.
void expect_rows_are_those_proven(const Outcome& outcome) {
    for (size_t i = 0; i < outcome.frames.size(); ++i) {
        if (outcome.frames[i].q.empty()) continue;
        for (const Witness& w : outcome.frames[i].witnesses) {
            const double again = attention::row_fingerprint(rows_of(outcome, i, w.layer, w.head, w.head + 1));
            EXPECT_NEAR(again / w.fingerprint, 1, 1e-5)
                << "frame " << i << ", layer " << w.layer << ", head " << w.head;
        }
    }
}

} // namespace

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
        // What a proof allows for rounding is docs/fidelity.md's matter: where the CPU's own fails by a hair, this one may.
        EXPECT_EQ(b.verdict & ~a.verdict, verdict_ok)
            << i << ": " << verdict_text(b.verdict) << ", on the CPU " << verdict_text(a.verdict);
        EXPECT_FALSE(b.witnesses.empty()) << i;
        if (testing::Test::HasFailure()) return; // one frame's worth of words is enough
    }
    expect_rows_are_those_proven(actual);
}

std::vector<double> mean_of_rows(const Outcome& outcome, size_t index) {
    const auto n = index + 1;
    std::vector<double> mean(n, 0.0);
    for (int32_t l = 0; l < outcome.geometry.n_layer(); ++l) {
        const std::vector<float> rows = rows_of(outcome, index, l, 0, outcome.geometry.layers[size_t(l)].n_head);
        for (size_t i = 0; i < rows.size(); ++i) {
            mean[i % n] += static_cast<double>(rows[i]) / static_cast<double>(outcome.geometry.n_rows());
        }
    }
    return mean;
}

void OnMadeDevices::SetUp() {
    MadeDevice::steer().reset();
}
void OnMadeDevices::TearDown() {
    EXPECT_TRUE(MadeDevice::steer().reset()) << "something wrote to memory of a device that had been given back";
}

} // namespace attnscope::test
