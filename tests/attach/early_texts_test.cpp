// The vocabulary that is read while a program loads its model is that of the model, or there is none.
#include "attach/parent/early_texts.h"
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::attach;
using namespace attnscope::test;

namespace fs = std::filesystem;

namespace {

class AttachEarlyTexts : public testing::Test {
protected:
    void SetUp() override { make(model, 2); }
    static void make(const std::string& path, int32_t n_layer) {
        models::ModelShape shape;
        shape.n_layer = n_layer;
        const auto made = models::make_model(shape, path);
        ASSERT_TRUE(made) << made.error().message;
    }
    // Of what was read of these arguments, what `file` gets.
    static std::shared_ptr<Texts> read(std::vector<std::string> arguments, const std::string& file, int32_t n_vocab = 0,
                                       int32_t n_layer = 2) {
        EarlyTexts early(std::move(arguments));
        early.begin();
        return early.of(file, n_vocab, n_layer);
    }
    TempDir dir;
    const std::string model = dir.file("model.gguf");
};

TEST_F(AttachEarlyTexts, AreThoseOfTheModelThatIsNamed) {
    const std::string link = dir.file("link");
    fs::create_symlink(model, link);
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{"program", "-m", model, "-c", "512"},
                                                      {"program", "--model=" + model},
                                                      {"program", "-m", link}}) {
        const std::shared_ptr<Texts> texts = read(arguments, model);
        ASSERT_TRUE(texts) << arguments[1];
        const auto later = Texts::open({model}, 0, 2);
        ASSERT_TRUE(later);
        EXPECT_EQ(texts->identity().sha256, (*later)->identity().sha256);
        EXPECT_EQ(texts->piece(7), (*later)->piece(7));
    }
}

TEST_F(AttachEarlyTexts, AreThoseOfNoOtherFile) {
    const std::string other = dir.file("other.gguf");
    make(other, 2);
    EXPECT_FALSE(read({"program", "-m", other}, model));
    EXPECT_FALSE(read({"program", "-m", model}, model, 1 << 20)); // a vocabulary of another size
    EXPECT_FALSE(read({"program", "-m", model}, model, 0, 3));    // other layers
    EXPECT_FALSE(read({"program", dir.path().string(), "nowhere", "/dev/zero", ""}, model));
    EXPECT_FALSE(read({"program", "-m", model}, ""));
    std::ofstream(dir.file("damaged.gguf")) << "GGUFnothing";
    EXPECT_FALSE(read({"program", dir.file("damaged.gguf")}, dir.file("damaged.gguf")));
}

TEST_F(AttachEarlyTexts, AreNotThoseOfAFileThatWasReplaced) {
    EarlyTexts early({"program", "-m", model});
    early.begin();
    ASSERT_TRUE(early.of(model, 0, 2));
    const std::string newer = dir.file("newer.gguf");
    make(newer, 2);
    fs::rename(newer, model);
    EXPECT_FALSE(early.of(model, 0, 2));
}

// Who wants them first is not kept waiting by a beginning that has not come.
TEST_F(AttachEarlyTexts, AreNoneBeforeTheyWereBegun) {
    EarlyTexts early({"program", "-m", model});
    EXPECT_FALSE(early.of(model, 0, 2));
    early.begin();
    EXPECT_FALSE(early.of(model, 0, 2));
}

} // namespace
