#include "models/model_make.h"

#include "support/engine_model.h"
#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace attnscope {
namespace {

namespace fs = std::filesystem;
using test::TempDir;

models::ModelShape tiny(const std::string& arch) {
    models::ModelShape shape;
    shape.arch = arch;
    return shape;
}

double deviation(const std::vector<float>& v) {
    double mean = 0, squares = 0;
    for (const float x : v) mean += double(x) / double(v.size());
    for (const float x : v) squares += (double(x) - mean) * (double(x) - mean) / double(v.size());
    return std::sqrt(squares);
}

const std::vector<int32_t> some_tokens = {1, 75, 104, 111, 35, 70, 100, 119, 1, 200, 44, 45, 46, 75, 104, 111,
                                          1, 75, 104, 111, 35, 70, 100, 119, 1, 200, 44, 45, 46, 75, 104, 111};

class MadeArchitecture : public testing::TestWithParam<std::string_view> {};

TEST_P(MadeArchitecture, LoadsInTheEngineAndDecodes) {
    test::quiet_engine();
    const TempDir dir;
    const std::string path = dir.file("model.gguf");
    const auto made = models::make_model(tiny(std::string(GetParam())), path);
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_LT(fs::file_size(path), 3u << 20);
    const auto model = test::load_engine_model(path);
    ASSERT_TRUE(model);
    const auto plain = test::decode_logits(model.get(), some_tokens, false);
    ASSERT_TRUE(plain);
    EXPECT_TRUE(std::all_of(plain->begin(), plain->end(), [](float x) { return std::isfinite(x); }));
    EXPECT_GT(deviation(*plain), 0.3);
    EXPECT_LT(deviation(*plain), 30);
    const auto flash = test::decode_logits(model.get(), some_tokens, true);
    ASSERT_TRUE(flash);
    double worst = 0;
    for (size_t i = 0; i < plain->size(); ++i) worst = std::max(worst, std::abs(double((*plain)[i] - (*flash)[i])));
    EXPECT_LT(worst, 0.2 * deviation(*plain)) << "flash attention computes something else";
}

TEST_P(MadeArchitecture, LooksAtEarlierTokens) {
    test::quiet_engine();
    const TempDir dir;
    const std::string path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model(tiny(std::string(GetParam())), path));
    const auto model = test::load_engine_model(path);
    ASSERT_TRUE(model);
    auto changed = some_tokens;
    changed[some_tokens.size() - 6] += 3;
    const auto a = test::decode_logits(model.get(), some_tokens, false);
    const auto b = test::decode_logits(model.get(), changed, false);
    ASSERT_TRUE(a && b);
    double worst = 0;
    for (size_t i = 0; i < a->size(); ++i) worst = std::max(worst, std::abs(double((*a)[i] - (*b)[i])));
    EXPECT_GT(worst, 0.02 * deviation(*a));
}

std::string test_name(const testing::TestParamInfo<std::string_view>& info) {
    std::string name(info.param);
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}

INSTANTIATE_TEST_SUITE_P(All, MadeArchitecture, testing::ValuesIn(models::made_text_architectures()), test_name);

TEST(ModelMake, SameShapeAndSeedGiveTheSameFile) {
    const TempDir dir;
    models::ModelShape shape;
    ASSERT_TRUE(models::make_model(shape, dir.file("a.gguf")));
    ASSERT_TRUE(models::make_model(shape, dir.file("b.gguf")));
    shape.seed = 2;
    ASSERT_TRUE(models::make_model(shape, dir.file("c.gguf")));
    EXPECT_EQ(test::read_bytes(dir.file("a.gguf")), test::read_bytes(dir.file("b.gguf")));
    EXPECT_NE(test::read_bytes(dir.file("a.gguf")), test::read_bytes(dir.file("c.gguf")));
}

TEST(ModelMake, QuantisedTypesDecode) {
    test::quiet_engine();
    const TempDir dir;
    for (const models::WeightType type :
         {models::WeightType::f32, models::WeightType::q8_0, models::WeightType::q4_0}) {
        models::ModelShape shape;
        shape.type = type;
        const std::string path = dir.file("quantised.gguf");
        ASSERT_TRUE(models::make_model(shape, path));
        const auto model = test::load_engine_model(path);
        ASSERT_TRUE(model);
        const auto logits = test::decode_logits(model.get(), some_tokens, true);
        ASSERT_TRUE(logits);
        EXPECT_GT(deviation(*logits), 0.3);
        EXPECT_LT(deviation(*logits), 30);
    }
}

TEST(ModelMake, TinyVocabularyGivesTextBack) {
    test::quiet_engine();
    const TempDir dir;
    const std::string path = dir.file("model.gguf");
    ASSERT_TRUE(models::make_model({}, path));
    const auto model = test::load_engine_model(path);
    ASSERT_TRUE(model);
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    const std::string text = "Hello, \xC3\xA4 world\n";
    std::vector<llama_token> tokens(64);
    const int32_t n = llama_tokenize(vocab, text.data(), int32_t(text.size()), tokens.data(), 64, false, false);
    ASSERT_EQ(n, int32_t(text.size()));
    std::string back(64, '\0');
    const int32_t m = llama_detokenize(vocab, tokens.data(), n, back.data(), 64, false, true);
    ASSERT_GT(m, 0);
    EXPECT_EQ(back.substr(0, size_t(m)), text);
}

TEST(ModelMake, CopiesARealTokeniser) {
    test::quiet_engine();
    const TempDir dir;
    models::ModelShape shape = tiny("qwen2");
    shape.vocab = "qwen2";
    shape.n_layer = 1;
    shape.n_vocab = 152064;
    const std::string path = dir.file("model.gguf");
    const auto made = models::make_model(shape, path);
    ASSERT_TRUE(made) << made.error().message;
    const auto model = test::load_engine_model(path);
    ASSERT_TRUE(model);
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    EXPECT_EQ(llama_vocab_n_tokens(vocab), 152064);
    const std::string text = "Hello, how are you?";
    std::vector<llama_token> tokens(16);
    tokens.resize(size_t(llama_tokenize(vocab, text.data(), int32_t(text.size()), tokens.data(), 16, false, false)));
    EXPECT_EQ(tokens, (std::vector<llama_token>{9707, 11, 1246, 525, 498, 30}));
}

TEST(ModelMake, RefusesShapesThatCannotBe) {
    const TempDir dir;
    const auto refusal = [&](auto change) {
        models::ModelShape shape;
        change(shape);
        const auto r = models::make_model(shape, dir.file("model.gguf"));
        return r ? std::string("accepted") : r.error().message;
    };
    EXPECT_EQ(refusal([](models::ModelShape& s) { s.n_head_kv = 3; }), "--kv-heads 3 does not divide --heads 4");
    EXPECT_EQ(refusal([](models::ModelShape& s) { s.n_layer = 0; }), "--layers is 0; it must be from 1 to 512");
    EXPECT_NE(refusal([](models::ModelShape& s) { s.arch = "nope"; }).find("cannot be made"), std::string::npos);
    EXPECT_NE(refusal([](models::ModelShape& s) { s.arch = "qwen2", s.n_embd = 64; }).find("--embd is 64"),
              std::string::npos);
    EXPECT_NE(refusal([](models::ModelShape& s) { s.vocab = "nope"; }).find("no tokeniser nope"), std::string::npos);
    EXPECT_TRUE(fs::is_empty(dir.path())) << "a refused model leaves a file behind";
}

TEST(ModelMake, SaysWhereItCannotWrite) {
    const auto r = models::make_model({}, "/nonexistent/folder/model.gguf");
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, ErrorKind::io);
}

} // namespace
} // namespace attnscope
