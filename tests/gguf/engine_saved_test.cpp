// What llama.cpp loads, we load: models of every architecture, saved by llama.cpp itself.
#include "gguf/gguf_check.h"
#include "support/arch_model.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace attnscope {
namespace {

using test::GgufBuilder;
using test::TempDir;

Result<gguf::GgufSummary> check(const GgufBuilder& b) {
    const std::string bytes = b.bytes();
    return gguf::check_gguf_bytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "m.gguf");
}

TEST(GgufCheck, AcceptsEveryModelThatLlamaCppSaved) {
    if (std::string(ATTNSCOPE_ARCH_MODELS).empty()) GTEST_SKIP() << "the engine's sources came without their tests";
    const TempDir dir;
    ASSERT_TRUE(test::make_arch_models(ATTNSCOPE_ARCH_MODELS, dir.file(""), ""));
    int n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir.file(""))) {
        const auto summary = gguf::check_gguf(entry.path());
        EXPECT_TRUE(summary) << summary.error().message;
        ++n;
    }
    EXPECT_GT(n, 100);
}

TEST(GgufCheck, AcceptsWhatIsWrittenWhereThereIsNone) {
    GgufBuilder b = GgufBuilder::llama();
    b.u32("llama.attention.kv_lora_rank", 0);
    b.f32("llama.rope.scaling.yarn_ext_factor", -1);
    b.f32("llama.attention.clamp_kqv", -std::numeric_limits<float>::infinity());
    b.u32("llama.ssm.inner_size", 0);
    b.u32("llama.shortconv.l_cache", 0);
    b.u32("llama.pooling_type", 4294967295u);
    const auto summary = check(b);
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_EQ(summary->no_text_reason, "");
}

TEST(GgufCheck, AcceptsAModelWithoutTokeniser) {
    GgufBuilder b = GgufBuilder::llama();
    b.string("tokenizer.ggml.model", "none");
    b.drop("tokenizer.ggml.tokens");
    b.u32("llama.vocab_size", 4);
    const auto summary = check(b);
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_EQ(summary->n_vocab, 4);
}

} // namespace
} // namespace attnscope
