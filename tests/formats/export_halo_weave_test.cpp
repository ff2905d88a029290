#include "formats/export_halo_weave.h"
#include "recording/synthetic.h"
#include "support/temp_dir.h"

#include <attnscope/diagnose.h>

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

TEST(ExportHaloWeave, GivesBackTheRowsOfTheRecordingInBothForms) {
    TempDir dir;
    write_recording(dir.file("x.attn"), uniform_geometry({}), 12);
    auto recording = Recording::open(dir.file("x.attn"));
    ASSERT_TRUE(recording) << recording.error().message;
    for (const bool json : {false, true}) {
        const std::string folder = dir.file(json ? "json" : "binary");
        auto written = export_halo_weave(**recording, {}, folder, json);
        ASSERT_TRUE(written) << written.error().message;
        auto reader = CaptureReader::open(folder);
        ASSERT_TRUE(reader) << reader.error().message;
        EXPECT_EQ((*reader)->info().n_tokens, *written);
        int64_t n = 0;
        for (; !(*reader)->at_end(); ++n) {
            auto token = (*reader)->next();
            ASSERT_TRUE(token) << token.error().message;
            auto rows = (*recording)->rows((*token)->number);
            ASSERT_TRUE(rows) << rows.error().message;
            EXPECT_EQ(std::vector<float>((*token)->values.begin(), (*token)->values.end()), rows->weights);
        }
        EXPECT_EQ(n, *written);
    }
}

TEST(ExportHaloWeave, RefusesAFolderThatHoldsSomething) {
    TempDir dir;
    write_recording(dir.file("x.attn"), uniform_geometry({}), 2);
    auto recording = Recording::open(dir.file("x.attn"));
    ASSERT_TRUE(recording);
    auto written = export_halo_weave(**recording, {}, dir.path().string(), false);
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
        auto reader = CaptureReader::open(path);
        ASSERT_TRUE(reader) << reader.error().message;
        auto diagnosis = diagnose_capture(**reader);
        ASSERT_TRUE(diagnosis) << diagnosis.error().message;
        EXPECT_TRUE(diagnosis->good()) << diagnosis->conclusion;
    }
}
