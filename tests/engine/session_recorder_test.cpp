// A recording states how its tokens were chosen.
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/session_recorder.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <filesystem>

using namespace attnscope;
using namespace attnscope::test;
using nlohmann::json;

namespace {

std::unique_ptr<Session> open_tiny(const TempDir& dir) {
    const std::string path = dir.file("tiny.gguf");
    if (!models::make_model(models::ModelShape{}, path)) return nullptr;
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 256;
    o.n_threads = 1;
    auto session = Session::open(o);
    return session ? std::move(*session) : nullptr;
}

json settings_of(const std::string& path) {
    auto recording = Recording::open(path);
    EXPECT_TRUE(recording) << recording.error().message;
    return recording ? json::parse((*recording)->info().settings_json) : json();
}

const std::vector<int32_t> prompt{5, 60, 70, 9};

} // namespace

TEST(SessionRecorder, SaysThatItWasInterrupted) {
    const TempDir dir;
    auto session = open_tiny(dir);
    ASSERT_TRUE(session);
    for (const bool stop : {false, true}) {
        std::atomic<bool> stopped{false};
        session->reset();
        GenerateOptions o;
        o.n_predict = 8;
        o.ignore_eos = true;
        o.stop = &stopped;
        const std::string path = dir.file(stop ? "stopped.attn" : "whole.attn");
        SessionRecorder recorder(*session, path);
        const auto result = session->generate(prompt, o, [&](Frame&& frame) {
            stopped = stop && frame.kind == FrameKind::generated;
            return recorder.push(std::move(frame));
        });
        ASSERT_TRUE(result);
        ASSERT_TRUE(recorder.close(result->end_reason()));
        const auto recording = Recording::open(path);
        ASSERT_TRUE(recording);
        EXPECT_TRUE((*recording)->info().complete);
        EXPECT_EQ((*recording)->sequences()[0].end_reason, stop ? "interrupted" : "");
        EXPECT_EQ((*recording)->info().n_frames, stop ? 5 : 12);
        EXPECT_TRUE((*recording)->check());
    }
}

TEST(SessionRecorder, StatesTheSamplingAndTheSeedOfTheRun) {
    const TempDir dir;
    auto session = open_tiny(dir);
    ASSERT_TRUE(session);
    EXPECT_FALSE(session->geometry().layers.empty()); // known before the first token
    EXPECT_FALSE(json::parse(session->recording_info().settings_json).contains("temp")) << "nothing was sampled yet";

    const std::string greedy = dir.file("greedy.attn"), random = dir.file("random.attn");
    SessionRecorder first(*session, greedy); // before generate(), as anybody would
    GenerateOptions o;
    o.n_predict = 5;
    o.ignore_eos = true;
    o.sampling.temperature = 0;
    o.sampling.seed = 1234;
    o.sampling.repeat_last_n = 17;
    ASSERT_TRUE(session->generate(prompt, o, first.sink()));
    ASSERT_TRUE(first.close());
    json settings = settings_of(greedy);
    EXPECT_EQ(settings.at("temp"), 0);
    EXPECT_EQ(settings.at("seed"), 1234);
    EXPECT_EQ(settings.at("repeat_last_n"), 17);

    session->reset();
    SessionRecorder second(*session, random);
    o.sampling = {};
    o.sampling.top_k = 7;
    const auto result = session->generate(prompt, o, second.sink());
    ASSERT_TRUE(result);
    ASSERT_TRUE(second.close());
    settings = settings_of(random);
    EXPECT_EQ(settings.at("temp"), 0.8);
    EXPECT_EQ(settings.at("top_k"), 7);
    EXPECT_EQ(settings.at("seed"), result->seed) << "the one that was drawn";

    auto recording = Recording::open(random);
    ASSERT_TRUE(recording);
    EXPECT_TRUE((*recording)->info().complete);
    ASSERT_EQ((*recording)->info().n_frames, 9);
    const auto frame = (*recording)->frame(1);
    ASSERT_TRUE(frame);
    EXPECT_EQ((*recording)->token_text(frame->token), session->piece(60));
}

TEST(SessionRecorder, MakesNoFileBeforeTheFirstFrame) {
    const TempDir dir;
    auto session = open_tiny(dir);
    ASSERT_TRUE(session);
    {
        SessionRecorder recorder(*session, dir.file("none.attn"));
        EXPECT_EQ(recorder.recorded(), 0);
        EXPECT_FALSE(recorder.is_open());
        EXPECT_TRUE(recorder.close());
    }
    EXPECT_FALSE(std::filesystem::exists(dir.file("none.attn")));
    // without close() what came is kept
    int64_t told = 0;
    {
        SessionRecorder recorder(*session, dir.file("open.attn"));
        recorder.on_commit([&](int64_t n) { told = n; });
        GenerateOptions o;
        o.n_predict = 0;
        ASSERT_TRUE(session->generate(prompt, o, recorder.sink()));
        EXPECT_TRUE(recorder.is_open());
    }
    EXPECT_EQ(told, 4);
    auto recording = Recording::open(dir.file("open.attn"));
    ASSERT_TRUE(recording);
    EXPECT_FALSE((*recording)->info().complete);
    EXPECT_EQ((*recording)->info().n_frames, 4);
    // a name that cannot be written ends the generation with the reason
    session->reset();
    SessionRecorder nowhere(*session, dir.file("no/such/folder.attn"));
    GenerateOptions o;
    o.n_predict = 1;
    const auto failed = session->generate(prompt, o, nowhere.sink());
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().message.find("folder.attn"), std::string::npos) << failed.error().message;
}
