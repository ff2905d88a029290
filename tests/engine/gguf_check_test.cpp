#include "engine/gguf_check.h"
#include "engine/model_make.h"
#include "engine/model_store.h"

#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

namespace attnscope {
namespace {

using test::TempDir;

class MadeModel : public testing::TestWithParam<std::string_view> {};

TEST_P(MadeModel, PassesWithItsNumbers) {
    const TempDir dir;
    const std::string path = dir.file("model.gguf");
    ModelShape shape;
    shape.arch = GetParam();
    ASSERT_TRUE(make_model(shape, path));
    const auto summary = check_gguf(path);
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_EQ(summary->architecture, GetParam());
    EXPECT_EQ(summary->n_layer, 4);
    EXPECT_EQ(summary->n_head, 4);
    EXPECT_EQ(summary->n_embd, 128);
    EXPECT_EQ(summary->n_vocab, 260);
    EXPECT_EQ(summary->n_ctx_train, 4096);
    EXPECT_EQ(summary->no_text_reason, "");
    EXPECT_FALSE(summary->embedding_only);
}

INSTANTIATE_TEST_SUITE_P(All, MadeModel, testing::ValuesIn(made_architectures()), [](const auto& param) {
    std::string name(param.param);
    for (char& c : name)
        c = c == '-' ? '_' : c;
    return name;
});

TEST(GgufCheck, AcceptsTheKnownModels) {
    for (const StoredModel& stored : stored_models()) {
        if (!stored.present) GTEST_SKIP() << "attnscope models get " << stored.model->name;
        const auto summary = check_gguf(stored.path);
        ASSERT_TRUE(summary) << summary.error().message;
        EXPECT_EQ(summary->file_bytes, stored.model->bytes);
    }
}

} // namespace
} // namespace attnscope
