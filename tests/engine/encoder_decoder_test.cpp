// Models that read a text with an encoder and write with a decoder that looks at it (T5).
#include "models/model_make.h"

#include "support/arch_model.h"
#include "support/temp_dir.h"

#include <attnscope/attention_view.h>
#include <attnscope/recording.h>
#include <attnscope/rows.h>
#include <attnscope/session_recorder.h>
#include <attnscope/verify.h>

#include <ggml-backend.h>
#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr int n_text = 40, n_written = 6;

std::vector<int32_t> some_text(int n = n_text) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back(5 + i * 7 % 101);
    return tokens;
}

std::string made_t5(const TempDir& dir) {
    models::ModelShape shape;
    shape.arch = "t5";
    shape.n_layer = 3;
    shape.n_ctx_train = 256;
    const std::string path = dir.file("t5.gguf");
    const auto made = models::make_model(shape, path);
    EXPECT_TRUE(made) << made.error().message;
    return path;
}

SessionOptions options(const std::string& path, FlashAttention flash = FlashAttention::off,
                       Entry entry = Entry::interposed) {
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 128;
    o.n_threads = 1;
    o.flash_attention = flash;
    o.entry = entry;
    o.encoder_decoder = true;
    return o;
}

GenerateOptions greedy(int n = n_written) {
    GenerateOptions go;
    go.n_predict = n;
    go.ignore_eos = true;
    go.sampling.temperature = 0;
    return go;
}

struct Written {
    std::vector<Frame> frames;
    Geometry geometry;
};
Written write(const SessionOptions& o, const std::vector<int32_t>& text, int n = n_written) {
    Written w;
    auto session = Session::open(o);
    EXPECT_TRUE(session) << session.error().message;
    if (!session) return w;
    const auto done = (*session)->generate(text, greedy(n), [&](Frame&& f) -> Result<void> {
        w.frames.push_back(std::move(f));
        return {};
    });
    EXPECT_TRUE(done) << done.error().message;
    w.geometry = (*session)->geometry();
    return w;
}

// The engine's kq_soft_max of one graph, in the order of its layers.
struct EngineLayers {
    struct Rows {
        int64_t n_kv = 0, n_query = 0, n_head = 0;
        std::vector<float> weights; // (n_head, n_query, n_kv)
    };
    std::vector<Rows> layers;

    static bool eval(ggml_tensor* t, bool ask, void* data) {
        if (std::strncmp(t->name, "kq_soft_max-", 12) != 0) return !ask;
        if (ask) return true;
        Rows rows{t->ne[0], t->ne[1], t->ne[2], std::vector<float>(size_t(ggml_nelements(t)))};
        ggml_backend_tensor_get(t, rows.weights.data(), 0, ggml_nbytes(t));
        static_cast<EngineLayers*>(data)->layers.push_back(std::move(rows));
        return true;
    }
};

std::vector<float> rows_of(const Written& w, size_t i, int32_t l, int64_t n) {
    const LayerInfo& info = w.geometry.layers[size_t(l)];
    std::vector<KeyBlock> keys;
    std::vector<int32_t> positions;
    for (size_t j = 0; j < size_t(n); ++j) {
        keys.push_back(
            {w.frames[j].k.data() + w.geometry.k_offset(info.k_layer), static_cast<int64_t>(j), 1, info.k_bytes()});
        positions.push_back(w.frames[j].position);
    }
    RowsRequest r;
    r.layer = &info;
    r.q = w.frames[i].q.data() + w.geometry.q_offset(l);
    r.keys = keys;
    r.visible = w.frames[i].visible[size_t(info.mask_group)];
    r.n_columns = n;
    r.position = w.frames[i].position;
    r.batched = w.frames[i].batched;
    r.positions = positions;
    r.head_end = info.n_head;
    std::vector<float> rows(size_t(info.n_head * n));
    const auto ok = attention_rows(r, rows);
    EXPECT_TRUE(ok) << ok.error().message;
    return rows;
}

// The largest difference of rows of frame `i` in layers [begin, end) from the engine's, whose column 0 is our column `first`.
double difference(const Written& w, size_t i, int64_t query, int32_t begin, const EngineLayers& engine, size_t from,
                  int64_t n_columns, size_t step, int64_t first) {
    double worst = 0;
    for (size_t e = from, l = size_t(begin); e < engine.layers.size(); e += step, l += step) {
        const EngineLayers::Rows& theirs = engine.layers[e];
        const std::vector<float> ours = rows_of(w, i, static_cast<int32_t>(l), n_columns);
        for (int64_t h = 0; h < theirs.n_head; ++h) {
            std::vector<double> expected(size_t(n_columns), 0.0);
            for (int64_t c = 0; c < theirs.n_kv; ++c) {
                const auto x = double(theirs.weights[size_t((h * theirs.n_query + query) * theirs.n_kv + c)]);
                if (first + c < n_columns)
                    expected[size_t(first + c)] = x;
                else
                    worst = std::max(worst, std::fabs(x)); // padding
            }
            for (int64_t j = 0; j < n_columns; ++j)
                worst = std::max(worst, std::fabs(expected[size_t(j)] - double(ours[size_t(h * n_columns + j)])));
        }
    }
    return worst;
}

// Every row of the encoder, of the decoder and of its cross attention is the engine's own.
void expect_engines_rows(const std::string& path, Entry entry) {
    const std::vector<int32_t> text = some_text();
    const Written w = write(options(path, FlashAttention::off, entry), text);
    ASSERT_EQ(w.frames.size(), size_t(n_text + 1 + n_written));
    const auto n_encoder =
        static_cast<int32_t>(std::count_if(w.geometry.layers.begin(), w.geometry.layers.end(),
                                           [](const auto& l) { return l.role == LayerRole::encoder; }));
    ASSERT_GT(n_encoder, 1);

    EngineLayers engine;
    llama_model_ptr model(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
    ASSERT_TRUE(model);
    llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = 128;
    p.n_threads = p.n_threads_batch = 1;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.cb_eval = EngineLayers::eval;
    p.cb_eval_user_data = &engine;
    llama_context_ptr context(llama_init_from_model(model.get(), p));
    ASSERT_TRUE(context);
    std::vector<int32_t> tokens = text;
    ASSERT_EQ(llama_encode(context.get(), llama_batch_get_one(tokens.data(), n_text)), 0);
    ASSERT_EQ(engine.layers.size(), size_t(n_encoder));
    double encoder = 0, decoder = 0, cross = 0;
    for (size_t i = 0; i < size_t(n_text); ++i)
        encoder = std::max(encoder, difference(w, i, static_cast<int64_t>(i), 0, engine, 0, n_text, 1, 0));
    for (size_t i = n_text; i < w.frames.size(); ++i) {
        engine.layers.clear();
        int32_t token = w.frames[i].token;
        ASSERT_EQ(llama_decode(context.get(), llama_batch_get_one(&token, 1)), 0);
        const auto n = static_cast<int64_t>(i) + 1;
        decoder = std::max(decoder, difference(w, i, 0, n_encoder, engine, 0, n, 2, n_text));
        cross = std::max(cross, difference(w, i, 0, n_encoder + 1, engine, 1, n, 2, 0));
    }
    EXPECT_LE(encoder, 1e-6);
    EXPECT_LE(decoder, 1e-6);
    EXPECT_LE(cross, 1e-6);
}

void expect_layout(const Written& w) {
    const Geometry& g = w.geometry;
    const int32_t n = g.n_layer() / 3;
    ASSERT_EQ(g.n_layer(), 3 * n);
    for (int32_t l = 0; l < g.n_layer(); ++l) {
        const LayerInfo& info = g.layers[size_t(l)];
        EXPECT_EQ(info.absent, "") << l;
        EXPECT_EQ(info.k_layer, l);
        EXPECT_EQ(info.role, l < n              ? LayerRole::encoder
                             : (l - n) % 2 == 0 ? LayerRole::decoder
                                                : LayerRole::cross)
            << l;
        EXPECT_EQ(info.layer, l < n ? l : (l - n) / 2);
    }
    ASSERT_EQ(w.frames.size(), size_t(n_text + 1 + n_written));
    for (size_t i = 0; i < w.frames.size(); ++i) {
        SCOPED_TRACE(i);
        const Frame& f = w.frames[i];
        const bool text = i < n_text;
        const auto at = static_cast<int64_t>(i);
        EXPECT_EQ(f.index, at);
        EXPECT_EQ(f.position, text ? at : at - n_text);
        EXPECT_EQ(f.kind, i <= n_text ? FrameKind::prompt : FrameKind::generated);
        EXPECT_EQ(f.verdict, verdict_ok) << verdict_text(f.verdict);
        for (const LayerInfo& info : g.layers) {
            const Ranges all{{0, n_text}}, own{{n_text, at + 1}};
            const Ranges expected = info.role == LayerRole::encoder ? (text ? all : Ranges{})
                                    : text                          ? Ranges{}
                                    : info.role == LayerRole::cross ? all
                                                                    : own;
            EXPECT_EQ(f.visible[size_t(info.mask_group)], expected) << layer_role_name(info.role);
        }
    }
}

} // namespace

TEST(EncoderDecoder, ColumnsAreTheTextAndThenWhatIsWritten) {
    const TempDir dir;
    const std::string path = made_t5(dir);
    for (const FlashAttention flash : {FlashAttention::off, FlashAttention::on}) {
        std::vector<Frame> first;
        for (const Entry entry : {Entry::interposed, Entry::callback}) {
            SCOPED_TRACE(std::string(flash == FlashAttention::on ? "flash" : "plain") +
                         (entry == Entry::callback ? " callback" : " interposed"));
            const Written w = write(options(path, flash, entry), some_text());
            expect_layout(w);
            std::set<std::pair<int32_t, int32_t>> proven;
            for (const Frame& f : w.frames) {
                for (const Witness& x : f.witnesses) proven.insert({x.layer, x.head});
            }
            EXPECT_GT(std::count_if(
                          proven.begin(), proven.end(),
                          [&](const auto& p) { return w.geometry.layers[size_t(p.first)].role == LayerRole::cross; }),
                      0);
            if (first.empty()) {
                first = w.frames;
                continue;
            }
            for (size_t i = 0; i < first.size(); ++i) { // both ways in give the same bytes
                EXPECT_EQ(first[i].q, w.frames[i].q) << i;
                EXPECT_EQ(first[i].k, w.frames[i].k) << i;
            }
        }
    }
}

TEST(EncoderDecoder, EveryRowIsTheEnginesOwn) {
    const TempDir dir;
    const std::string path = made_t5(dir);
    for (const Entry entry : {Entry::interposed, Entry::callback}) expect_engines_rows(path, entry);
}

TEST(EncoderDecoder, RowsOfTheEnginesOwnT5AreItsOwn) {
    if (std::string(ATTNSCOPE_ARCH_MODELS).empty()) GTEST_SKIP() << "the engine's sources came without their tests";
    const TempDir dir;
    ASSERT_TRUE(make_arch_models(ATTNSCOPE_ARCH_MODELS, dir.file(""), "t5"));
    expect_engines_rows(dir.file("t5.gguf"), Entry::interposed);
}

TEST(EncoderDecoder, ARecordingOfOneIsProvenAndItsMeansAreOfTheRowsThatThereAre) {
    const TempDir dir;
    const std::string file = dir.file("t5.attn");
    {
        auto session = Session::open(options(made_t5(dir)));
        ASSERT_TRUE(session) << session.error().message;
        SessionRecorder recorder(**session, file);
        ASSERT_TRUE((*session)->generate(some_text(), greedy(), recorder.sink()));
        ASSERT_TRUE(recorder.close());
    }
    auto recording = Recording::open(file);
    ASSERT_TRUE(recording) << recording.error().message;
    const auto verified = verify_recording(**recording, {});
    ASSERT_TRUE(verified) << verified.error().message;
    EXPECT_TRUE(verified->good) << verified->damage;
    EXPECT_EQ(verified->n_ok, n_text + 1 + n_written);
    const Geometry& g = (*recording)->info().geometry;
    for (const int64_t token : {int64_t{3}, int64_t{n_text}, int64_t{n_text + n_written}}) {
        const auto rows = (*recording)->rows(token);
        ASSERT_TRUE(rows) << rows.error().message;
        const auto n = size_t(rows->n_columns);
        for (size_t l = 0; l < size_t(g.n_layer()); ++l) {
            const LayerRole role = g.layers[l].role;
            const bool there = (role == LayerRole::encoder) == (token < n_text);
            for (size_t h = 0; h < size_t(g.max_heads()); ++h) {
                const float* row = rows->weights.data() + (l * size_t(g.max_heads()) + h) * n;
                double text = 0, written = 0;
                for (size_t j = 0; j < n; ++j) (j < n_text ? text : written) += double(row[j]);
                EXPECT_NEAR(text, there && role != LayerRole::decoder ? 1 : 0, 1e-5) << token << " " << l;
                EXPECT_NEAR(written, there && role == LayerRole::decoder ? 1 : 0, 1e-5) << token << " " << l;
            }
        }
        auto source = AttentionSource::of(**recording);
        ASSERT_TRUE(source);
        AttentionRequest request;
        request.reduce = Reduce::mean;
        auto view = AttentionView::create(**source, request, {});
        ASSERT_TRUE(view) << view.error().message;
        const auto mean = (*view)->answer(token);
        ASSERT_TRUE(mean) << mean.error().message;
        double sum = 0;
        for (const float x : mean->values) sum += double(x);
        EXPECT_NEAR(sum, 1, 1e-5) << token;
    }
}

TEST(EncoderDecoder, OneTextAtATimeAndEachForItself) {
    const TempDir dir;
    auto session = Session::open(options(made_t5(dir)));
    ASSERT_TRUE(session) << session.error().message;
    std::vector<Frame> first, again;
    const auto into = [](std::vector<Frame>& frames) {
        return [&frames](Frame&& f) -> Result<void> {
            frames.push_back(std::move(f));
            return {};
        };
    };
    ASSERT_TRUE((*session)->generate(some_text(), greedy(), into(first)));
    const auto second = (*session)->generate(some_text(), greedy(), into(again));
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().kind, ErrorKind::invalid_argument);
    (*session)->reset();
    again.clear();
    ASSERT_TRUE(
        (*session)->generate(some_text(90), greedy(2), into(again))); // more than before, of which nothing is left
    ASSERT_EQ(again.size(), size_t(93));
    (*session)->reset();
    again.clear();
    ASSERT_TRUE((*session)->generate(some_text(), greedy(), into(again)));
    ASSERT_EQ(again.size(), first.size());
    for (size_t i = 0; i < first.size(); ++i) {
        EXPECT_EQ(first[i].token, again[i].token) << i;
        EXPECT_EQ(first[i].q, again[i].q) << i;
        EXPECT_EQ(first[i].k, again[i].k) << i;
        EXPECT_EQ(again[i].verdict, verdict_ok) << i;
    }
    (*session)->reset();
    again.clear();
    ASSERT_TRUE(
        (*session)->generate(some_text(1), greedy(3), into(again))); // as many columns as the decoder has queries
    ASSERT_EQ(again.size(), size_t(5));
    for (const Frame& f : again) EXPECT_EQ(f.verdict, verdict_ok) << f.index << " " << verdict_text(f.verdict);
}

TEST(EncoderDecoder, ATextThatWasReadOnlyIsRecordedAsBefore) {
    const TempDir dir;
    SessionOptions o = options(made_t5(dir));
    o.only_read = true;
    const Written w = write(o, some_text(), 0);
    EXPECT_EQ(w.geometry.n_layer(), 3);
    EXPECT_EQ(w.frames.size(), size_t(n_text));
    for (const LayerInfo& l : w.geometry.layers) EXPECT_EQ(l.role, LayerRole::every);
}

TEST(EncoderDecoder, WhatIsStoppedBeforeTheDecoderKeepsTheText) {
    const TempDir dir;
    auto session = Session::open(options(made_t5(dir)));
    ASSERT_TRUE(session) << session.error().message;
    std::vector<Frame> frames;
    ASSERT_TRUE((*session)->generate(some_text(), greedy(0), [&](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.verdict, verdict_ok) << verdict_text(f.verdict);
        frames.push_back(std::move(f));
        return {};
    }));
    EXPECT_EQ(frames.size(), size_t(n_text + 1)); // and what the decoder begins with
}

TEST(EncoderDecoder, WhoDidNotAskForOneIsToldInASentence) {
    const TempDir dir;
    SessionOptions o = options(made_t5(dir));
    o.encoder_decoder = false;
    const auto refused = Session::open(o);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, ErrorKind::unsupported);
    EXPECT_NE(refused.error().message.find("encoder has to read the text first"), std::string::npos);
    o.encoder_decoder = true;
    o.n_ctx = 4096; // more than it was trained with
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    const auto long_text = (*session)->generate(some_text(257), greedy(), {}, {});
    ASSERT_FALSE(long_text);
    EXPECT_EQ(long_text.error().kind, ErrorKind::invalid_argument);
}
