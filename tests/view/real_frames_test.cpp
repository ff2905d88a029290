// Frames of a real model: what a view answers is what the recording of the same generation gives.
#include "models/model_store.h"
#include "support/temp_dir.h"

#include <attnscope/attention_view.h>
#include <attnscope/recording.h>
#include <attnscope/session.h>

#include <gtest/gtest.h>

#include <cmath>

using namespace attnscope;
using namespace attnscope::test;

TEST(RealFrames, RowsEqualTheRecordingsAndTheMeanIsWithinAMillionth) {
    const auto path = models::find_model("smollm2");
    ASSERT_TRUE(path) << path.error().message;
    SessionOptions options;
    options.model_path = *path;
    options.n_ctx = 512;
    options.n_threads = 1;
    auto session = Session::open(options);
    ASSERT_TRUE(session) << session.error().message;
    auto tokens = (*session)->tokenize("Anna keeps bees in Oslo. Boris bakes bread in Lisbon. Chen repairs clocks in",
                                       true, false);
    ASSERT_TRUE(tokens);

    const TempDir folder;
    const std::string file = folder.file("real.attn");
    auto writer = RecordingWriter::create(file, (*session)->recording_info());
    ASSERT_TRUE(writer) << writer.error().message;
    std::unique_ptr<KeyStore> keys;
    std::vector<Frame> frames;
    GenerateOptions generate;
    generate.n_predict = 24;
    generate.ignore_eos = true;
    generate.sampling.temperature = 0;
    const auto result = (*session)->generate(*tokens, generate, [&](Frame&& frame) -> Result<void> {
        if (!keys) {
            auto store = KeyStore::create((*session)->geometry(), (*session)->n_ctx());
            if (!store) return store.error();
            keys = std::move(*store);
            if (auto ok = (*writer)->begin((*session)->geometry()); !ok) return ok;
        }
        if (auto ok = keys->append(frame); !ok) return ok;
        frames.push_back(frame);
        return (*writer)->push(std::move(frame));
    });
    ASSERT_TRUE(result) << result.error().message;
    ASSERT_TRUE((*writer)->close());
    auto recording = Recording::open(file);
    ASSERT_TRUE(recording) << recording.error().message;
    ASSERT_EQ((*recording)->info().n_frames, static_cast<int64_t>(frames.size()));

    auto rows = AttentionView::create(*keys, {});
    auto mean = AttentionView::create(*keys, {.reduce = Reduce::mean}, {.n_threads = 2});
    ASSERT_TRUE(rows && mean);
    for (const Frame& frame : frames) {
        const auto live = (*rows)->answer(frame);
        ASSERT_TRUE(live) << live.error().message;
        const auto recorded = (*recording)->rows(frame.index);
        ASSERT_TRUE(recorded) << recorded.error().message;
        ASSERT_EQ(live.value().n_columns, recorded.value().n_columns);
        ASSERT_EQ(live.value().values, recorded.value().weights) << "frame " << frame.index;

        const auto live_mean = (*mean)->answer(frame);
        ASSERT_TRUE(live_mean);
        const auto n = static_cast<size_t>(recorded.value().n_columns);
        std::vector<double> want(n, 0.0);
        for (size_t i = 0; i < recorded.value().weights.size(); ++i)
            want[i % n] += static_cast<double>(recorded.value().weights[i]);
        for (size_t j = 0; j < n; ++j)
            ASSERT_NEAR(static_cast<double>(live_mean.value().values[j]),
                        want[j] * static_cast<double>(n) / static_cast<double>(recorded.value().weights.size()), 1e-6);
    }
}
