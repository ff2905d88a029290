// What a page asks of a recording of an encoder and its decoder (T5): every number over the rows that there are, and none where it
// would mean nothing.
#include "models/model_make.h"
#include "support/temp_dir.h"
#include "view/recorded/head_metrics.h"
#include "view/recorded/questions.h"

#include <attnscope/attention_map.h>
#include <attnscope/attention_view.h>
#include <attnscope/session_recorder.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace attnscope;
using namespace attnscope::view;

namespace {

constexpr int64_t n_text = 60, n_written = 12, n_all = n_text + 1 + n_written; // and what the decoder begins with

class EncoderDecoder : public testing::Test {
protected:
    void SetUp() override {
        models::ModelShape shape;
        shape.arch = "t5";
        shape.n_layer = 2;
        const std::string model = dir_.file("t5.gguf"), file = dir_.file("t5.attn");
        const auto made = models::make_model(shape, model);
        ASSERT_TRUE(made) << made.error().message;
        SessionOptions options;
        options.model_path = model;
        options.n_ctx = 128;
        options.n_threads = 2;
        options.encoder_decoder = true;
        auto session = Session::open(options);
        ASSERT_TRUE(session) << session.error().message;
        std::vector<int32_t> text;
        for (int32_t i = 0; i < n_text; ++i) text.push_back(5 + i * 7 % 23); // tokens come again
        GenerateOptions generate;
        generate.n_predict = n_written;
        generate.ignore_eos = true;
        generate.sampling.temperature = 0;
        SessionRecorder recorder(**session, file);
        const auto done = (*session)->generate(text, generate, recorder.sink());
        ASSERT_TRUE(done) << done.error().message;
        ASSERT_TRUE(recorder.close());
        auto opened = Recording::open(file);
        ASSERT_TRUE(opened) << opened.error().message;
        recording_ = std::move(*opened);
        auto loaded = RecordedTensors::load(*recording_, size_t(1) << 30);
        ASSERT_TRUE(loaded) << loaded.error().message;
        tensors_ = *loaded;
        ASSERT_EQ(tensors_->size(), n_all);
        ASSERT_EQ(tensors_->geometry().n_layer(), 6); // encoder, encoder, decoder, cross, decoder, cross
    }
    LayerRole role(int32_t layer) const { return tensors_->geometry().layers[size_t(layer)].role; }
    std::vector<float> row(int64_t i, int32_t layer, int32_t head) const {
        std::vector<float> out(static_cast<size_t>(tensors_->n_columns(i)));
        EXPECT_TRUE(tensors_->rows(i, layer, {head, head + 1}, out));
        return out;
    }

    test::TempDir dir_;
    std::unique_ptr<Recording> recording_;
    std::shared_ptr<const RecordedTensors> tensors_;
};

} // namespace

TEST_F(EncoderDecoder, MetricsAreOfTheirOwnTextAndCrossAttentionHasNoPlaces) {
    const auto m = head_metrics(*tensors_);
    ASSERT_TRUE(m) << m.error().message;
    EXPECT_EQ(m->n_rows, n_text - 1);
    const auto token = [&](int64_t i) { return tensors_->frame(i).token; };
    for (int32_t l = 0; l < m->n_layer; ++l) {
        const bool cross = role(l) == LayerRole::cross, text = role(l) == LayerRole::encoder;
        const int64_t begin = text ? 0 : n_text, end = text ? n_text : n_all; // tokens that ask
        const int64_t first = text || cross ? 0 : n_text, last = text || cross ? n_text : n_all;
        EXPECT_EQ(tensors_->tokens_of(l).begin, begin);
        EXPECT_EQ(tensors_->tokens_of(l).end, end);
        for (int32_t h = 0; h < m->n_head; ++h) {
            SCOPED_TRACE(std::string(layer_role_name(role(l))) + " " + std::to_string(h));
            std::array<double, n_metrics> sum{};
            std::array<int64_t, n_metrics> count{};
            for (int64_t i = begin; i < end; ++i) {
                if (!cross && i == begin) continue;
                const std::vector<float> a = row(i, l, h);
                std::array<double, n_metrics> v{};
                double second = 0;
                bool again = false, copied = false;
                for (int64_t j = 0; j < int64_t(a.size()); ++j) {
                    const auto w = double(a[size_t(j)]);
                    if (w > 0) v[m_entropy] -= w * std::log(w);
                    v[m_distance] += w * double(i - j);
                    second += w * double(i - j) * double(i - j);
                    if (j <= i && j > i - 8) v[m_local] += w;
                    const bool own = first <= j && j < last && j <= i;
                    if (own && j > first && token(j - 1) == token(i)) v[m_induction] += w, again = true;
                    if (own && i + 1 < end && token(j) == token(i + 1)) v[m_retrieval] += w, copied = true;
                }
                v[m_distance_variance] = second - v[m_distance] * v[m_distance];
                v[m_self] = double(a[size_t(i)]), v[m_previous] = double(a[size_t(i) - 1]);
                v[m_first] = double(a[size_t(first)]);
                for (size_t k = 0; k < n_metrics; ++k) {
                    const bool counts = (k != m_induction || again) && (k != m_retrieval || copied);
                    const bool of_places = k != m_first && k != m_entropy && k != m_retrieval;
                    if (!counts || (cross && of_places)) continue;
                    sum[k] += v[k];
                    ++count[k];
                }
            }
            const auto at = static_cast<size_t>(l * m->n_head + h);
            for (size_t k = 0; k < n_metrics; ++k) {
                const double got = m->values[k][at];
                if (count[k] == 0) {
                    EXPECT_TRUE(std::isnan(got)) << metric_name(int(k)) << " " << got;
                } else {
                    EXPECT_NEAR(got, sum[k] / double(count[k]), k == m_distance_variance ? 1e-4 : 5e-6)
                        << metric_name(int(k));
                }
            }
            for (const char* kind : {"previous token", "self", "induction", "local"}) {
                EXPECT_TRUE(!cross || head_kind(*m, at) != kind) << kind;
            }
        }
    }
}

TEST_F(EncoderDecoder, AHeadsDetailIsOfItsRowsAlone) {
    for (int32_t l = 0; l < 6; ++l) {
        const auto d = head_detail(*tensors_, l, 0);
        ASSERT_TRUE(d) << d.error().message;
        double sum = 0;
        for (const double share : d->distance) sum += share;
        if (role(l) == LayerRole::cross) {
            EXPECT_TRUE(std::isnan(d->distance[0]));
        } else {
            EXPECT_NEAR(sum, 1, 1e-5) << l; // of rows that there are, each sums to 1
        }
        for (const WeightAt& w : d->strongest) {
            EXPECT_TRUE(tensors_->has_rows(w.query, l)) << l << " " << w.query;
            EXPECT_GT(w.weight, 0);
        }
    }
}

TEST_F(EncoderDecoder, NothingIsLostInLayersThatATokenPassesBy) {
    const auto r = rollout(*tensors_, n_text + 4, n_all);
    ASSERT_TRUE(r) << r.error().message;
    double sum = 0, text = 0;
    for (size_t j = 0; j < r->size(); ++j) {
        sum += double((*r)[j]);
        if (j < size_t(n_text)) text += double((*r)[j]);
    }
    EXPECT_NEAR(sum, 1, 1e-5);
    EXPECT_GT(text, 0.1); // through cross attention
    const auto none = flow(*tensors_, {0, -1, false}, n_text + 4, n_all);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().kind, ErrorKind::not_found);
    const auto same = difference(*tensors_, *tensors_);
    ASSERT_TRUE(same) << same.error().message;
    for (const double d : same->distance) EXPECT_EQ(d, 0);
}

TEST_F(EncoderDecoder, WhatTheTextReadsBehindASpanIsThere) {
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{5, 9}, {0, 3}, {n_text - 2, n_text}}) {
        const auto f = flow(*tensors_, {}, begin, end); // of the encoder's text: its own rows
        ASSERT_TRUE(f) << f.error().message;
        ASSERT_EQ(f->size(), size_t(n_text));
        std::vector<float> own;
        std::vector<double> expected(size_t(n_text), 0.0);
        for (int64_t i = begin; i < end; ++i) {
            ASSERT_TRUE(tensors_->reduced(i, {}, own));
            for (size_t j = 0; j < own.size(); ++j) expected[j] += double(own[j]) / double(end - begin);
        }
        double sum = 0;
        for (size_t j = 0; j < f->size(); ++j) {
            EXPECT_NEAR(double((*f)[j]), expected[j], 1e-6) << j;
            sum += double((*f)[j]);
        }
        EXPECT_NEAR(sum, 1, 1e-5);
        const auto rolled = rollout(*tensors_, begin, end);
        ASSERT_TRUE(rolled) << rolled.error().message;
        EXPECT_NEAR(std::accumulate(rolled->begin(), rolled->end(), 0.0), 1, 1e-5);
    }
    // what the decoder begins with was chosen by nothing, least of all by the row of the text's last token
    EXPECT_EQ(tensors_->row_that_tells_of(n_text), -1);
    EXPECT_EQ(tensors_->row_that_tells_of(n_text + 1), n_text);
    EXPECT_FALSE(flow(*tensors_, {}, n_text, n_text + 1));
    const auto decoder = flow(*tensors_, {}, n_text, n_text + 2), its_row = flow(*tensors_, {}, n_text + 1, n_text + 2);
    ASSERT_TRUE(decoder && its_row);
    EXPECT_EQ(*decoder, *its_row);
}

TEST_F(EncoderDecoder, WhatNoRowSaysIsNoNumber) {
    const auto c = column(*tensors_, 3, {3, -1, false}); // cross attention: the decoder's tokens have rows
    ASSERT_TRUE(c) << c.error().message;
    for (int64_t i = 3; i < n_all; ++i) EXPECT_EQ(std::isnan((*c)[size_t(i - 3)]), i < n_text) << i;
    const auto own = column(*tensors_, 3, {0, 1, false});
    ASSERT_TRUE(own) << own.error().message;
    for (int64_t i = 3; i < n_all; ++i) {
        if (i >= n_text)
            EXPECT_TRUE(std::isnan((*own)[size_t(i - 3)])) << i;
        else
            EXPECT_NEAR((*own)[size_t(i - 3)], row(i, 0, 1)[3], 1e-5) << i;
    }
    const auto all = column(*tensors_, 3, {});
    ASSERT_TRUE(all);
    for (const float w : *all) EXPECT_FALSE(std::isnan(w)); // each token has some row
    struct Asked {
        int64_t token;
        int32_t layer;
    };
    for (const Asked& a : {Asked{3, 2}, Asked{n_text + 2, 0}, Asked{n_text + 2, 3}}) {
        const auto unseen = column(*tensors_, a.token, {a.layer, -1, false});
        ASSERT_FALSE(unseen) << a.token << " " << a.layer;
        EXPECT_EQ(unseen.error().kind, ErrorKind::not_found);
        EXPECT_NE(unseen.error().message.find("nothing in layer"), std::string::npos) << unseen.error().message;
    }
    const Range none = tensors_->unseen_by({}), text = tensors_->unseen_by({2, -1, false}),
                decoder = tensors_->unseen_by({3, -1, false});
    EXPECT_EQ(none.begin, none.end);
    EXPECT_EQ(text, (Range{0, n_text}));
    EXPECT_EQ(decoder, (Range{n_text, n_all}));
    const auto scores =
        position_scores(*tensors_, {0, -1, false}, 32); // no written token has a row in the encoder's layer
    ASSERT_FALSE(scores);
    EXPECT_EQ(scores.error().kind, ErrorKind::not_found);
    EXPECT_NE(scores.error().message.find("layer of the encoder, and the token is the decoder's"), std::string::npos)
        << scores.error().message;
}

TEST_F(EncoderDecoder, WhoAsksForRowsThatAreNotThereIsToldInWords) {
    std::vector<float> out;
    const auto reduced = tensors_->reduced(n_all - 1, {0, -1, false}, out);
    ASSERT_FALSE(reduced);
    EXPECT_NE(reduced.error().message.find("layer of the encoder, and the token is the decoder's"), std::string::npos)
        << reduced.error().message;
    auto source = AttentionSource::of(*recording_);
    ASSERT_TRUE(source);
    for (const Reduce reduce : {Reduce::mean, Reduce::per_layer, Reduce::none}) {
        AttentionRequest request;
        request.reduce = reduce;
        request.rows.layers = {0, 1}; // the encoder's
        auto view = AttentionView::create(**source, request);
        ASSERT_TRUE(view) << view.error().message;
        const auto there = (*view)->answer(3);
        EXPECT_TRUE(there);
        const auto gone = (*view)->answer(n_all - 1);
        ASSERT_FALSE(gone);
        EXPECT_EQ(gone.error().kind, ErrorKind::not_found);
        EXPECT_NE(gone.error().message.find("no row in layer 0"), std::string::npos) << gone.error().message;
        int64_t n = 0; // whoever asks for all gets those that there are
        const auto each = (*view)->each({0, n_all}, [&](AttentionAnswer&&) -> Result<void> {
            ++n;
            return {};
        });
        ASSERT_TRUE(each) << each.error().message;
        EXPECT_EQ(n, n_text);
    }
    MapRequest map;
    map.rows.layers = {2};
    map.tokens = {0, n_all};
    map.tokens_per_tile = n_text;
    const auto lines = attention_map(**source, map);
    ASSERT_TRUE(lines) << lines.error().message;
    EXPECT_EQ(lines->n_tokens, (std::vector<int64_t>{0, 1 + n_written}));
}
