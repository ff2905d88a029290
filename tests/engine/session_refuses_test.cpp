// Models that llama.cpp loads and attnscope cannot use: refused in a sentence, not by a crash.
#include "models/model_make.h"

#include "support/file_bytes.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"

#include <attnscope/session.h>

#include <gtest/gtest.h>

namespace attnscope {
namespace {

using test::TempDir;

TEST(SessionRefuses, ModelsWithoutAttention) {
    const TempDir dir;
    test::GgufBuilder b = test::GgufBuilder::llama();
    b.string("general.architecture", "mamba");
    b.u32("mamba.context_length", 8);
    b.u32("mamba.embedding_length", 4);
    b.u32("mamba.block_count", 1);
    test::write_bytes(dir.file("mamba.gguf"), b.bytes());
    SessionOptions options;
    options.model_path = dir.file("mamba.gguf");
    const auto session = Session::open(options);
    ASSERT_FALSE(session);
    EXPECT_EQ(session.error().kind, ErrorKind::unsupported);
    EXPECT_NE(session.error().message.find("has no attention to capture"), std::string::npos)
        << session.error().message;
}

TEST(SessionRefuses, TextThatTheVocabularyCannotWrite) {
    const TempDir dir;
    const std::string path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model({}, path));
    std::string bytes = test::read_bytes(path);
    bytes[bytes.find("<0x71>") + 1] = '_'; // no token for the letter q is left
    test::write_bytes(path, bytes);
    SessionOptions options;
    options.model_path = path;
    options.n_ctx = 64;
    options.n_threads = 1;
    const auto session = Session::open(options);
    ASSERT_TRUE(session) << session.error().message;
    EXPECT_TRUE((*session)->tokenize("abc", false, false));
    const auto tokens = (*session)->tokenize("abcq", false, false);
    ASSERT_FALSE(tokens);
    EXPECT_EQ(tokens.error().kind, ErrorKind::engine);
}

} // namespace
} // namespace attnscope
