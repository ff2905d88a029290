// What a page asks of a recording of an encoder (BERT), whose tokens see later ones, too.
#include "models/model_make.h"
#include "support/temp_dir.h"
#include "view/recorded/questions.h"

#include <attnscope/session_recorder.h>

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

using namespace attnscope;
using namespace attnscope::view;

namespace {

constexpr int64_t n_text = 40;

class EncoderRecorded : public testing::Test {
protected:
    void SetUp() override { record(-1); }
    // `last`: of so many tokens of the text the rows are kept; -1: of all.
    void record(int32_t last) {
        models::ModelShape shape;
        shape.arch = "bert";
        shape.n_layer = 2;
        SessionOptions options;
        options.model_path = dir_.file("bert.gguf");
        options.n_threads = 2;
        options.only_read = true;
        ASSERT_TRUE(models::make_model(shape, options.model_path));
        auto session = Session::open(options);
        ASSERT_TRUE(session) << session.error().message;
        std::vector<int32_t> text;
        for (int32_t i = 0; i < n_text; ++i) text.push_back(5 + i * 7 % 101);
        GenerateOptions generate;
        generate.n_predict = 0;
        if (last >= 0) generate.prompt_rows.last = last;
        std::filesystem::remove(dir_.file("bert.attn"));
        SessionRecorder recorder(**session, dir_.file("bert.attn"));
        ASSERT_TRUE((*session)->generate(text, generate, recorder.sink()));
        ASSERT_TRUE(recorder.close());
        auto opened = Recording::open(dir_.file("bert.attn"));
        ASSERT_TRUE(opened) << opened.error().message;
        recording_ = std::move(*opened);
        auto loaded = RecordedTensors::load(*recording_, size_t(1) << 30);
        ASSERT_TRUE(loaded) << loaded.error().message;
        tensors_ = *loaded;
    }
    static double sum(const std::vector<float>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

    test::TempDir dir_;
    std::unique_ptr<Recording> recording_;
    std::shared_ptr<const RecordedTensors> tensors_;
};

} // namespace

TEST_F(EncoderRecorded, AFlowIsOfTheTokensOwnRowsAndWhole) {
    for (const Selection& s : {Selection{}, Selection{1, -1, false}, Selection{0, 2, false}}) {
        for (const auto& [begin, end] :
             {std::pair<int64_t, int64_t>{0, 1}, {3, 9}, {n_text - 1, n_text}, {0, n_text}}) {
            const auto f = flow(*tensors_, s, begin, end);
            ASSERT_TRUE(f) << f.error().message;
            ASSERT_EQ(f->size(), size_t(n_text)) << "what lies behind the span is read as well";
            EXPECT_NEAR(sum(*f), 1, 1e-5) << begin << " " << end;
            std::vector<double> expected(size_t(n_text), 0.0);
            std::vector<float> row;
            for (int64_t i = begin; i < end; ++i) {
                ASSERT_TRUE(tensors_->reduced(i, s, row));
                for (size_t j = 0; j < row.size(); ++j) expected[j] += double(row[j]) / double(end - begin);
            }
            for (size_t j = 0; j < expected.size(); ++j) EXPECT_NEAR(double((*f)[j]), expected[j], 1e-6);
        }
    }
    EXPECT_FALSE(flow(*tensors_, {}, -1, 4));
    EXPECT_FALSE(flow(*tensors_, {}, 4, 4));
    EXPECT_FALSE(flow(*tensors_, {}, 4, n_text + 1));
}

TEST_F(EncoderRecorded, ARolloutGoesThroughNoTokenWhoseRowsWereNotKept) {
    for (const int32_t last : {0, 6}) {
        record(last);
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {3, 9}, {n_text - 4, n_text}}) {
            const auto r = rollout(*tensors_, begin, end);
            ASSERT_FALSE(r) << last << " " << begin; // an encoder's token reads all of them
            EXPECT_EQ(r.error().kind, ErrorKind::not_found);
            EXPECT_NE(r.error().message.find("was recorded without its queries"), std::string::npos)
                << r.error().message;
        }
    }
}

TEST_F(EncoderRecorded, ARolloutLosesNothing) {
    const int64_t n_head = tensors_->geometry().layers[0].n_head;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {3, 9}, {n_text - 4, n_text}}) {
        const auto r = rollout(*tensors_, begin, end);
        ASSERT_TRUE(r) << r.error().message;
        ASSERT_EQ(r->size(), size_t(n_text));
        EXPECT_NEAR(sum(*r), 1, 1e-5) << begin << " " << end;
        std::vector<double> v(size_t(n_text), 0.0); // Abnar and Zuidema over all rows
        for (int64_t i = begin; i < end; ++i) v[size_t(i)] = 1 / double(end - begin);
        std::vector<float> rows(size_t(n_head * n_text));
        for (int32_t layer = 1; layer >= 0; --layer) {
            std::vector<double> next(v.size(), 0.0);
            for (int64_t i = 0; i < n_text; ++i) {
                ASSERT_TRUE(tensors_->rows(i, layer, {0, n_head}, rows));
                next[size_t(i)] += v[size_t(i)] / 2;
                for (size_t j = 0; j < rows.size(); ++j)
                    next[j % size_t(n_text)] += v[size_t(i)] / 2 / double(n_head) * double(rows[j]);
            }
            v = next;
        }
        for (size_t j = 0; j < v.size(); ++j) EXPECT_NEAR(double((*r)[j]), v[j], 1e-6);
    }
}
