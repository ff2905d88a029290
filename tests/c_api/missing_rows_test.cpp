// Rows that are not there: the C API says why, where its arrays hold zeros.
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/attnscope.h>
#include <attnscope/session_recorder.h>

#include <gtest/gtest.h>

#include <string>

using namespace attnscope;

TEST(MissingRows, NoNumberOfTokensIsLessThanWithoutEnd) {
    const test::TempDir dir;
    const std::string model = dir.file("llama.gguf");
    ASSERT_TRUE(models::make_model({}, model));
    attnscope_session_params params = {};
    params.struct_size = sizeof params;
    ASSERT_EQ(attnscope_session_default_params(&params), ATTNSCOPE_OK);
    params.model_path = model.c_str();
    params.n_ctx = 64;
    params.n_threads = 1;
    attnscope_session* session = nullptr;
    ASSERT_EQ(attnscope_session_open(&params, &session), ATTNSCOPE_OK) << attnscope_error_message();
    attnscope_generate_params generate = {};
    generate.struct_size = sizeof generate;
    ASSERT_EQ(attnscope_generate_default_params(&generate), ATTNSCOPE_OK);
    generate.n_predict = -2;
    EXPECT_EQ(attnscope_session_record(session, "abc", &generate, dir.file("x.attn").c_str()),
              ATTNSCOPE_INVALID_ARGUMENT);
    EXPECT_NE(std::string(attnscope_error_message()).find("-1 goes on"), std::string::npos)
        << attnscope_error_message();
    attnscope_session_free(session);
}

TEST(MissingRows, OfAnEncoderAndItsDecoderAreToldInWords) {
    const test::TempDir dir;
    models::ModelShape shape;
    shape.arch = "t5";
    shape.n_layer = 1; // three layers: the encoder's, the decoder's, cross attention
    SessionOptions options;
    options.model_path = dir.file("t5.gguf");
    options.n_ctx = 64;
    options.n_threads = 1;
    options.encoder_decoder = true;
    ASSERT_TRUE(models::make_model(shape, options.model_path));
    {
        auto session = Session::open(options);
        ASSERT_TRUE(session) << session.error().message;
        SessionRecorder recorder(**session, dir.file("t5.attn"));
        GenerateOptions generate;
        generate.n_predict = 2;
        generate.ignore_eos = true;
        ASSERT_TRUE((*session)->generate(std::vector<int32_t>{5, 6, 7, 8}, generate, recorder.sink()));
        ASSERT_TRUE(recorder.close());
    }
    attnscope_recording* recording = nullptr;
    ASSERT_EQ(attnscope_recording_open(dir.file("t5.attn").c_str(), &recording), ATTNSCOPE_OK);
    for (int64_t token = 0; token < 7; ++token) { // 4 are read, 1 begins, 2 are written
        for (int32_t layer = 0; layer < 3; ++layer) {
            const bool there = (token < 4) == (layer == 0);
            const char* why = nullptr;
            ASSERT_EQ(attnscope_recording_why_no_row(recording, token, layer, &why), ATTNSCOPE_OK);
            EXPECT_EQ(std::string(why).empty(), there) << token << " " << layer << ": " << why;
            const char* whose = there ? "" : token < 4 ? "encoder's text" : "decoder's";
            EXPECT_NE(std::string(why).find(whose), std::string::npos) << why;
            const int32_t head = 0;
            std::vector<float> row(7);
            int64_t n = 0;
            ASSERT_EQ(attnscope_recording_rows(recording, token, &layer, 1, &head, 1, row.data(), row.size(), &n),
                      ATTNSCOPE_OK);
            double sum = 0;
            for (const float w : row) sum += double(w);
            EXPECT_NEAR(sum, there ? 1 : 0, 1e-5);
        }
    }
    const char* why = nullptr;
    EXPECT_EQ(attnscope_recording_why_no_row(recording, 0, 3, &why), ATTNSCOPE_NOT_FOUND);
    EXPECT_EQ(attnscope_recording_why_no_row(recording, 7, 0, &why), ATTNSCOPE_NOT_FOUND);
    EXPECT_EQ(attnscope_recording_why_no_row(nullptr, 0, 0, &why), ATTNSCOPE_INVALID_ARGUMENT);
    attnscope_recording_free(recording);
}
