#include "formats/export_halo_weave.h"
#include "recording/synthetic.h"
#include "support/temp_dir.h"

#include <attnscope/diagnose.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>

using namespace attnscope;
using namespace attnscope::test;

TEST(ExportHaloWeave, GivesBackTheRowsOfTheRecordingInBothForms) {
    TempDir dir;
    write_recording(dir.file("x.attn"), uniform_geometry({}), 30); // 20 of a prompt
    auto recording = Recording::open(dir.file("x.attn"));
    ASSERT_TRUE(recording) << recording.error().message;
    std::vector<int64_t> positions; // of generated tokens that a kept row chose
    int64_t n_prompt = 0;
    for (int64_t i = 0; i < (*recording)->info().n_frames; ++i) {
        auto frame = (*recording)->frame(i, true);
        ASSERT_TRUE(frame);
        n_prompt += frame->kind == FrameKind::prompt;
        if (frame->kind == FrameKind::generated && !(*recording)->frame(i - 1, true)->q.empty()) positions.push_back(i);
    }
    ASSERT_GT(positions.size(), 5u);
    for (const bool json : {false, true}) {
        const std::string folder = dir.file(json ? "json" : "binary");
        auto written = formats::export_halo_weave(**recording, {}, folder, json);
        ASSERT_TRUE(written) << written.error().message;
        auto reader = DumpReader::open(folder);
        ASSERT_TRUE(reader) << reader.error().message;
        EXPECT_EQ((*reader)->info().n_tokens, *written);
        int64_t n = 0;
        for (; !(*reader)->at_end(); ++n) {
            auto token = (*reader)->next();
            ASSERT_TRUE(token) << token.error().message;
            // the row that chose the token: from the one before, over the columns that were there
            ASSERT_LT(size_t(n), positions.size());
            const int64_t position = positions[size_t(n)];
            auto rows = (*recording)->rows(position - 1);
            ASSERT_TRUE(rows) << rows.error().message;
            EXPECT_EQ((*token)->n_context, position);
            auto frame = (*recording)->frame(position, false);
            ASSERT_TRUE(frame);
            EXPECT_EQ(frame->kind, FrameKind::generated);
            EXPECT_EQ((*token)->token_id, frame->token);
            const auto meta = nlohmann::json::parse(
                std::ifstream(folder + fmt::format("/token_{:05}{}", (*token)->number, json ? ".json" : "_meta.json")));
            EXPECT_EQ(meta["position"], position);
            EXPECT_EQ(meta["step"], position - n_prompt);
            if (json) {
                EXPECT_EQ(meta["generation_step"], position - n_prompt);
            }
            EXPECT_EQ(std::vector<float>((*token)->values.begin(), (*token)->values.end()), rows->weights);
        }
        EXPECT_EQ(n, *written);
        const auto metadata = nlohmann::json::parse(std::ifstream(folder + "/metadata.json"));
        const auto& prompt = metadata["prompt_tokens"];
        ASSERT_EQ(int64_t(prompt.size()), n_prompt);
        for (size_t i = 0; i < prompt.size(); ++i) {
            auto frame = (*recording)->frame(int64_t(i), false);
            ASSERT_TRUE(frame);
            EXPECT_EQ(prompt[i]["token_id"], frame->token);
            EXPECT_EQ(prompt[i]["position"], i);
            for (const char* key : {"text", "turn_id", "sentence_id", "message_role"})
                EXPECT_TRUE(prompt[i].contains(key)) << key;
        }
    }
}

TEST(ExportHaloWeave, RefusesAFolderThatHoldsSomething) {
    TempDir dir;
    write_recording(dir.file("x.attn"), uniform_geometry({}), 2);
    auto recording = Recording::open(dir.file("x.attn"));
    ASSERT_TRUE(recording);
    auto written = formats::export_halo_weave(**recording, {}, dir.path().string(), false);
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().kind, ErrorKind::invalid_argument);
}

// Layers without attention, with fewer heads, with sinks and windows: odd, and right.
TEST(DiagnoseRecording, FindsNothingWrongInOurOwn) {
    TempDir dir;
    for (const Geometry& geometry : {uniform_geometry({}), mixed_geometry()}) {
        const std::string path = dir.file("x.attn");
        WriterOptions options;
        options.overwrite = true;
        write_recording(path, geometry, 40, options);
        auto reader = DumpReader::open(path);
        ASSERT_TRUE(reader) << reader.error().message;
        auto diagnosis = diagnose_dump(**reader);
        ASSERT_TRUE(diagnosis) << diagnosis.error().message;
        EXPECT_TRUE(diagnosis->good()) << diagnosis->conclusion;
    }
}
