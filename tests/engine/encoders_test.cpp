// Models that do not generate: how they read a text that they are given, tokens seeing later ones as well.
#include "formats/export_arrays.h"
#include "models/model_make.h"

#include "support/arch_model.h"
#include "support/engine_rows.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>
#include <attnscope/session_recorder.h>
#include <attnscope/verify.h>

#include <ggml.h>
#include <gguf.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr int n_tokens = 75; // past a sliding window of 32

std::vector<int32_t> some_tokens(int n = n_tokens) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back(5 + i * 7 % 101);
    return tokens;
}

SessionOptions options(const std::string& path, FlashAttention flash = FlashAttention::off,
                       Entry entry = Entry::interposed) {
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 128;
    o.n_batch = 32; // less than the text: it is read at once all the same
    o.n_threads = 1;
    o.flash_attention = flash;
    o.entry = entry;
    o.only_read = true;
    return o;
}

std::string made_bert(const TempDir& dir) {
    models::ModelShape shape;
    shape.arch = "bert";
    shape.n_ctx_train = 512;
    const std::string path = dir.file("bert.gguf");
    const auto made = models::make_model(shape, path);
    EXPECT_TRUE(made) << made.error().message;
    return path;
}

// Rows are the engine's own in both ways in, every frame is proven with flash attention on and off.
void expect_engines_rows(const std::string& path, int n_layer, KeySource source) {
    for (const FlashAttention flash : {FlashAttention::off, FlashAttention::on}) {
        for (const Entry entry : {Entry::interposed, Entry::callback}) {
            SCOPED_TRACE(std::string(flash == FlashAttention::on ? "flash" : "plain") +
                         (entry == Entry::callback ? " callback" : " interposed"));
            const SessionOptions o = options(path, flash, entry);
            {
                auto session = Session::open(o);
                ASSERT_TRUE(session) << session.error().message;
                const Geometry& g = (*session)->geometry();
                ASSERT_EQ(g.n_layer(), n_layer);
                for (const LayerInfo& l : g.layers) {
                    EXPECT_EQ(l.absent, "");
                    EXPECT_EQ(l.key_source, source);
                }
            }
            const RowsDifference d = compare_with_engine(o, some_tokens(), 0, [](size_t) { return true; });
            ASSERT_EQ(d.error, "");
            EXPECT_EQ(d.not_ok, 0);
            EXPECT_LE(d.max_witness, 1.0);
            EXPECT_GT(d.witnessed, 0);
            if (flash == FlashAttention::on) continue;
            EXPECT_EQ(d.tokens, n_tokens);
            EXPECT_EQ(d.rows, n_tokens * d.pairs);
            EXPECT_LE(d.max_difference, 1e-6);
            EXPECT_EQ(d.max_padding, 0.0);
        }
    }
}

// A copy of a model with another key.
template <typename Set> void copy_with(const std::string& from, const std::string& to, const Set& set) {
    ggml_context* weights = nullptr;
    const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(
        gguf_init_from_file(from.c_str(), {.no_alloc = false, .ctx = &weights}), gguf_free);
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> owner(weights, ggml_free);
    ASSERT_TRUE(file);
    const std::unique_ptr<gguf_context, decltype(&gguf_free)> copy(gguf_init_empty(), gguf_free);
    gguf_set_kv(copy.get(), file.get());
    set(copy.get());
    for (ggml_tensor* t = ggml_get_first_tensor(weights); t; t = ggml_get_next_tensor(weights, t)) {
        if (gguf_find_tensor(file.get(), ggml_get_name(t)) >= 0) gguf_add_tensor(copy.get(), t); // not the blob of all
    }
    ASSERT_TRUE(gguf_write_to_file(copy.get(), to.c_str(), false));
}
void set_u32(const std::string& from, const char* key, uint32_t value, const std::string& to) {
    copy_with(from, to, [&](gguf_context* file) { gguf_set_val_u32(file, key, value); });
}
void set_bool(const std::string& from, const char* key, bool value, const std::string& to) {
    copy_with(from, to, [&](gguf_context* file) { gguf_set_val_bool(file, key, value); });
}

struct Kind {
    const char* arch;
    bool window; // some layers have a sliding window, to both sides
};
void PrintTo(const Kind& kind, std::ostream* out) {
    *out << kind.arch;
}

} // namespace

TEST(Encoders, RowsOfAMadeBertAreTheEnginesOwn) {
    const TempDir dir;
    expect_engines_rows(made_bert(dir), 4, KeySource::graph);
}

TEST(Encoders, EveryTokenSeesTheWholeTextAndOneTextAtATime) {
    const TempDir dir;
    auto session = Session::open(options(made_bert(dir)));
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions read;
    read.n_predict = 0;
    int64_t n = 0;
    const auto sink = [&](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.index, n++);
        EXPECT_EQ(f.visible, std::vector<Ranges>{Ranges({{0, n_tokens}})});
        return {};
    };
    ASSERT_TRUE((*session)->generate(some_tokens(), read, sink));
    EXPECT_EQ(n, n_tokens);
    const auto second = (*session)->generate(some_tokens(), read, sink);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().kind, ErrorKind::invalid_argument);
    (*session)->reset();
    n = 0;
    EXPECT_TRUE((*session)->generate(some_tokens(), read, sink));
    EXPECT_EQ(n, n_tokens);
}

TEST(Encoders, WhatTheyCannotReadIsRefusedInASentence) {
    const TempDir dir;
    SessionOptions o = options(made_bert(dir));
    o.n_ctx = 4096; // more positions than it has learned: llama.cpp would abort
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions read;
    read.n_predict = 0;
    const auto too_long = (*session)->generate(some_tokens(513), read, {}, {});
    ASSERT_FALSE(too_long);
    EXPECT_EQ(too_long.error().kind, ErrorKind::invalid_argument);
    EXPECT_TRUE((*session)->generate(some_tokens(512), read, {}, {}));
    (*session)->reset();
    read.n_predict = 1;
    const auto generated = (*session)->generate(some_tokens(), read, {}, {});
    ASSERT_FALSE(generated);
    EXPECT_NE(generated.error().message.find("-n 0"), std::string::npos) << generated.error().message;
    o.only_read = false;
    const auto generates = Session::open(o);
    ASSERT_FALSE(generates);
    EXPECT_EQ(generates.error().kind, ErrorKind::unsupported);
    EXPECT_NE(generates.error().message.find("-n 0"), std::string::npos) << generates.error().message;
}

TEST(Encoders, ARecordingOfOneKeepsWhatItSees) {
    const TempDir dir;
    const std::string file = dir.file("bert.attn");
    std::vector<float> first;
    {
        auto session = Session::open(options(made_bert(dir)));
        ASSERT_TRUE(session) << session.error().message;
        SessionRecorder recorder(**session, file);
        GenerateOptions read;
        read.n_predict = 0;
        ASSERT_TRUE((*session)->generate(some_tokens(), read, recorder.sink()));
        ASSERT_TRUE(recorder.close());
    }
    auto recording = Recording::open(file);
    ASSERT_TRUE(recording) << recording.error().message;
    EXPECT_EQ((*recording)->info().geometry.layers[0].key_source, KeySource::graph);
    const auto verified = verify_recording(**recording, {});
    ASSERT_TRUE(verified) << verified.error().message;
    EXPECT_TRUE(verified->good) << verified->damage;
    for (const int64_t token : {0, 40, n_tokens - 1}) {
        const auto rows = (*recording)->rows(token);
        ASSERT_TRUE(rows) << rows.error().message;
        ASSERT_EQ(rows->n_columns, n_tokens);
        for (size_t r = 0; r < rows->weights.size(); r += n_tokens) {
            double sum = 0, later = 0;
            for (int64_t j = 0; j < n_tokens; ++j) {
                sum += double(rows->weights[r + size_t(j)]);
                later += j > token ? double(rows->weights[r + size_t(j)]) : 0;
            }
            EXPECT_NEAR(sum, 1, 1e-5);
            EXPECT_EQ(later > 0, token < n_tokens - 1);
        }
    }
}

// Of a causal text model with a pooling type (Qwen3-Embedding): keys lie in a cache, and tokens see what comes before them.
TEST(Encoders, EmbeddingsOfACausalModelAreReadAsItsTextIs) {
    const TempDir dir;
    const std::string path = dir.file("qwen2.gguf");
    models::ModelShape shape;
    shape.arch = "qwen2";
    ASSERT_TRUE(models::make_model(shape, path));
    for (const uint32_t pooling : {1u, 3u}) {
        const std::string pooled = dir.file("pooled.gguf");
        set_u32(path, "qwen2.pooling_type", pooling, pooled);
        SessionOptions o = options(pooled);
        o.only_read = false;
        EXPECT_FALSE(Session::open(o));
        expect_engines_rows(pooled, 4, KeySource::cache);
    }
}

// One that looks both ways and has a cache all the same: it is read in one batch, or llama.cpp aborts.
TEST(Encoders, ATextModelThatLooksBothWaysIsReadInOneBatch) {
    const TempDir dir;
    const std::string path = dir.file("llama.gguf"), both = dir.file("both.gguf");
    ASSERT_TRUE(models::make_model({}, path));
    set_bool(path, "llama.attention.causal", false, both);
    expect_engines_rows(both, 4, KeySource::cache);
    auto session = Session::open(options(both));
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions read;
    read.n_predict = 0;
    ASSERT_TRUE((*session)->generate(some_tokens(), read, [&](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.visible.front(), Ranges({{0, n_tokens}})) << f.index;
        return {};
    }));
}

TEST(Encoders, ExportedRowsAreAsWideAsWhatTheySee) {
    const TempDir dir;
    auto session = Session::open(options(made_bert(dir)));
    ASSERT_TRUE(session) << session.error().message;
    SessionRecorder recorder(**session, dir.file("bert.attn"));
    GenerateOptions read;
    read.n_predict = 0;
    ASSERT_TRUE((*session)->generate(some_tokens(), read, recorder.sink()));
    ASSERT_TRUE(recorder.close());
    auto recording = Recording::open(dir.file("bert.attn"));
    ASSERT_TRUE(recording) << recording.error().message;
    const int64_t row_bytes = (*recording)->info().geometry.n_rows() * n_tokens * int64_t{sizeof(float)};
    const auto bytes = [&](const std::string& name) {
        return static_cast<int64_t>(std::filesystem::file_size(dir.file(name)));
    };
    formats::ExportSelection selection;
    selection.tokens = {3}; // the first of the text: it sees all that is behind it
    ASSERT_TRUE(formats::export_npy(**recording, selection, dir.file("one.npy"), {}));
    EXPECT_EQ(bytes("one.npy") / row_bytes, 1);
    EXPECT_LT(bytes("one.npy") % row_bytes, 200); // the header
    ASSERT_TRUE(formats::export_safetensors(**recording, selection, dir.file("one.safetensors"), {}));
    EXPECT_EQ(bytes("one.safetensors") / row_bytes, 1);
    selection.tokens = {3, 4};
    ASSERT_TRUE(formats::export_npy(**recording, selection, dir.file("two.npy"), {}));
    EXPECT_EQ(bytes("two.npy") / row_bytes, 2);
}

// 64 tokens and more together: their queries are multiplied as they are, and kept so; alone they are rounded.
TEST(FlashAttention, QueriesAreKeptAsTheKernelMultipliesThem) {
    const TempDir dir;
    const std::string path = dir.file("llama.gguf");
    ASSERT_TRUE(models::make_model({}, path));
    for (const Entry entry : {Entry::interposed, Entry::callback}) {
        SessionOptions o = options(path, FlashAttention::on, entry);
        o.only_read = false;
        o.n_batch = 70;
        auto session = Session::open(o);
        ASSERT_TRUE(session) << session.error().message;
        EXPECT_EQ((*session)->geometry().layers[0].q_type, DType::f32);
        GenerateOptions generate;
        generate.n_predict = 3;
        generate.ignore_eos = true;
        const auto read = (*session)->generate(some_tokens(75), generate, [](Frame&& f) -> Result<void> {
            std::vector<float> q(f.q.size() / sizeof(float));
            std::memcpy(q.data(), f.q.data(), f.q.size());
            const bool whole =
                std::any_of(q.begin(), q.end(), [](float x) { return ggml_fp16_to_fp32(ggml_fp32_to_fp16(x)) != x; });
            EXPECT_EQ(whole, f.index < 70) << f.index; // then 5 together, then alone
            EXPECT_EQ(f.verdict, verdict_ok) << f.index;
            return {};
        });
        EXPECT_TRUE(read) << read.error().message;
    }
}

class EncoderKinds : public testing::TestWithParam<Kind> {};

TEST_P(EncoderKinds, EveryRowIsTheEnginesOwnAndEveryFrameIsOk) {
    const Kind& kind = GetParam();
    if (std::string(ATTNSCOPE_ARCH_MODELS).empty()) GTEST_SKIP() << "the engine's sources came without their tests";
    const TempDir dir;
    ASSERT_TRUE(make_arch_models(ATTNSCOPE_ARCH_MODELS, dir.file(""), kind.arch));
    const std::string path = dir.file(std::string(kind.arch) + ".gguf");
    expect_engines_rows(path, 2, KeySource::graph);
    auto session = Session::open(options(path));
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions read;
    read.n_predict = 0;
    bool later = false, narrow = false;
    ASSERT_TRUE((*session)->generate(some_tokens(), read, [&](Frame&& f) -> Result<void> {
        for (const Ranges& seen : f.visible) {
            later = later || seen.back().end > f.index + 1;
            narrow = narrow || ranges_count(seen) < n_tokens;
        }
        return {};
    }));
    EXPECT_TRUE(later);
    EXPECT_EQ(narrow, kind.window);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EncoderKinds,
                         testing::Values(Kind{"bert", false}, Kind{"modern-bert", true}, Kind{"nomic-bert", false},
                                         Kind{"nomic-bert-moe", false}, Kind{"neo-bert", false},
                                         Kind{"jina-bert-v2", false}, Kind{"jina-bert-v3", false},
                                         Kind{"eurobert", false}, Kind{"gemma-embedding", true},
                                         Kind{"llama-embed", false}, Kind{"dream", false}, Kind{"llada", false},
                                         Kind{"llada-moe", false}, Kind{"rnd1", false}, Kind{"t5", false},
                                         Kind{"t5encoder", false}),
                         [](const auto& made) {
                             std::string name = made.param.arch;
                             for (char& c : name) c = c == '-' ? '_' : c;
                             return name;
                         });
