#include "gguf/gguf_architectures.h"
#include "gguf/gguf_check.h"
#include "models/model_make.h"
#include "models/model_store.h"

#include "support/file_bytes.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <sys/stat.h>

namespace attnscope {
namespace {

using test::GgufBuilder;
using test::TempDir;

Result<gguf::GgufSummary> check(const std::string& bytes) {
    return gguf::check_gguf_bytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "m.gguf");
}

// ---- models that are good

class MadeModel : public testing::TestWithParam<std::string_view> {};

TEST_P(MadeModel, PassesWithItsNumbers) {
    const TempDir dir;
    const std::string path = dir.file("model.gguf");
    models::ModelShape shape;
    shape.arch = GetParam();
    ASSERT_TRUE(models::make_model(shape, path));
    const auto summary = gguf::check_gguf(path);
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_EQ(summary->architecture, GetParam());
    EXPECT_EQ(summary->n_layer, 4);
    EXPECT_EQ(summary->n_head, 4);
    EXPECT_EQ(summary->n_embd, 128);
    EXPECT_EQ(summary->n_vocab, 260);
    EXPECT_EQ(summary->n_ctx_train, 4096);
    EXPECT_EQ(summary->no_text_reason, "");
    EXPECT_TRUE(summary->has_attention);
    EXPECT_FALSE(summary->embedding_only);
}

INSTANTIATE_TEST_SUITE_P(All, MadeModel, testing::ValuesIn(models::made_text_architectures()), [](const auto& param) {
    std::string name(param.param);
    for (char& c : name) c = c == '-' ? '_' : c;
    return name;
});

TEST(GgufCheck, AcceptsEncodersAndSaysThatTheyDoNotGenerate) {
    for (const std::string_view arch : models::made_encoders()) {
        const TempDir dir;
        models::ModelShape shape;
        shape.arch = arch;
        ASSERT_TRUE(models::make_model(shape, dir.file("model.gguf")));
        const auto summary = gguf::check_gguf(dir.file("model.gguf"));
        ASSERT_TRUE(summary) << summary.error().message;
        const bool writes = arch == "t5"; // behind an encoder
        EXPECT_EQ(summary->no_text_reason, writes ? "it is an encoder-decoder, whose encoder has to read the text first"
                                                  : "it turns text into embeddings");
        EXPECT_TRUE(summary->reads_texts);
        EXPECT_TRUE(summary->reads_whole_texts);
        EXPECT_TRUE(summary->has_attention);
        EXPECT_EQ(summary->embedding_only, !writes);
        EXPECT_EQ(summary->encoder_decoder, writes);
    }
}

TEST(GgufCheck, AcceptsTheKnownModels) {
    for (const models::StoredModel& stored : models::stored_models()) {
        if (!stored.present) GTEST_SKIP() << "attnscope models get " << stored.model->name;
        const auto summary = gguf::check_gguf(stored.path);
        ASSERT_TRUE(summary) << summary.error().message;
        EXPECT_EQ(summary->file_bytes, stored.model->bytes);
    }
}

TEST(GgufCheck, AcceptsVersionTwoAndOtherAlignments) {
    GgufBuilder b = GgufBuilder::llama();
    ASSERT_TRUE(check(b.bytes()));
    b.version = 2;
    EXPECT_TRUE(check(b.bytes()));
    b.alignment = 128;
    b.u32("general.alignment", 128);
    EXPECT_TRUE(check(b.bytes()));
}

TEST(GgufCheck, SaysOfWhatDoesNotGenerateText) {
    GgufBuilder b = GgufBuilder::llama();
    b.u32("llama.pooling_type", 1);
    auto summary = check(b.bytes());
    ASSERT_TRUE(summary);
    EXPECT_TRUE(summary->embedding_only);
    EXPECT_EQ(summary->no_text_reason, "it turns text into embeddings");

    b = GgufBuilder::llama();
    b.boolean("llama.attention.causal", false);
    summary = check(b.bytes());
    ASSERT_TRUE(summary);
    EXPECT_EQ(summary->no_text_reason, "its tokens attend in both directions");

    b = GgufBuilder::llama();
    b.string("general.architecture", "clip");
    summary = check(b.bytes());
    ASSERT_TRUE(summary);
    EXPECT_NE(summary->no_text_reason.find("mmproj"), std::string::npos);
}

TEST(GgufCheck, ReadsAllPartsOfASplitModel) {
    const TempDir dir;
    const std::string first = dir.file("m-00001-of-00002.gguf"), second = dir.file("m-00002-of-00002.gguf");
    GgufBuilder a = GgufBuilder::llama(), b;
    b.tensors = {a.tensors.back()};
    a.tensors.pop_back();
    a.u32("llama.block_count", 2);
    b.tensors[0].name = "blk.1.attn_q.weight";
    for (GgufBuilder* part : {&a, &b}) {
        part->key("split.no", 2, GgufBuilder::raw(uint16_t(part == &b)));
        part->key("split.count", 2, GgufBuilder::raw(uint16_t(2)));
    }
    test::write_bytes(first, a.bytes());
    auto summary = gguf::check_gguf(first);
    ASSERT_FALSE(summary);
    EXPECT_EQ(summary.error().kind, ErrorKind::not_found);
    test::write_bytes(second, b.bytes());
    summary = gguf::check_gguf(first);
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_EQ(summary->n_parts, 2);
    EXPECT_EQ(summary->n_tensors, 3);
    EXPECT_EQ(summary->file_bytes, a.bytes().size() + b.bytes().size());
    b.key("split.no", 2, GgufBuilder::raw(uint16_t(5)));
    test::write_bytes(second, b.bytes());
    summary = gguf::check_gguf(first);
    ASSERT_FALSE(summary);
    EXPECT_NE(summary.error().message.find("says it is part 6, where part 2 belongs"), std::string::npos);
}

// ---- files that are not models

TEST(GgufCheck, NamesWhatIsNotAFile) {
    const TempDir dir;
    EXPECT_EQ(gguf::check_gguf(dir.file("nothing.gguf")).error().kind, ErrorKind::not_found);
    EXPECT_EQ(gguf::check_gguf(dir.path().string()).error().kind, ErrorKind::not_ours);
    EXPECT_EQ(gguf::check_gguf("/dev/zero").error().kind, ErrorKind::not_ours);
    ASSERT_EQ(mkfifo(dir.file("pipe").c_str(), 0600), 0);
    EXPECT_EQ(gguf::check_gguf(dir.file("pipe")).error().kind, ErrorKind::not_ours);
    test::write_bytes(dir.file("empty"), "");
    EXPECT_EQ(gguf::check_gguf(dir.file("empty")).error().kind, ErrorKind::not_ours);
}

// ---- damage, each with the sentence it gets

struct Damage {
    const char* name;
    std::function<void(GgufBuilder&)> make;
    ErrorKind kind;
    const char* says; // after "m.gguf "
};

std::string plain(const std::string& bytes) {
    const auto result = check(bytes);
    return result ? "passes" : result.error().message;
}

const Damage damages[] = {
    {"Version1", [](auto& b) { b.version = 1; }, ErrorKind::unsupported, "is GGUF version 1"},
    {"Version9", [](auto& b) { b.version = 9; }, ErrorKind::too_new, "says it is GGUF version 9"},
    {"BigEndian", [](auto& b) { b.version = 0x03000000; }, ErrorKind::unsupported, "is a big-endian GGUF file"},
    {"KeyTwice", [](auto& b) { b.repeat("general.name"); }, ErrorKind::damaged, "holds the key general.name twice"},
    {"TensorTwice", [](auto& b) { b.tensors.push_back(b.tensors.back()); }, ErrorKind::damaged,
     "holds the tensor blk.0.attn_q.weight twice"},
    {"KeyType", [](auto& b) { b.key("x", 77, ""); }, ErrorKind::damaged, "is damaged at byte "},
    {"NestedArray", [](auto& b) { b.key("x", 9, GgufBuilder::raw(9u) + GgufBuilder::raw(uint64_t(0))); },
     ErrorKind::damaged, "is damaged at byte "},
    {"HugeArray", [](auto& b) { b.key("x", 9, GgufBuilder::raw(4u) + GgufBuilder::raw(uint64_t(1) << 60)); },
     ErrorKind::damaged, "is damaged at byte "},
    {"LongArray", [](auto& b) { b.key("x", 9, GgufBuilder::raw(4u) + GgufBuilder::raw(uint64_t(1) << 20)); },
     ErrorKind::damaged, "is cut off: "},
    {"LongString", [](auto& b) { b.key("x", 8, GgufBuilder::raw(~uint64_t(0))); }, ErrorKind::damaged, "is cut off: "},
    {"Alignment", [](auto& b) { b.u32("general.alignment", 48); }, ErrorKind::damaged,
     "has a key general.alignment of 48; it must be a power of two"},
    {"AlignmentType", [](auto& b) { b.f32("general.alignment", 32); }, ErrorKind::damaged,
     "has a key general.alignment of type float32; it must be uint32"},
    {"TensorType", [](auto& b) { b.tensors[0].type = 4; }, ErrorKind::damaged, "is damaged at byte "},
    {"TensorIndices", [](auto& b) { b.tensors[0].type = 26; }, ErrorKind::damaged,
     "has a tensor token_embd.weight of type i32, which llama.cpp cannot compute with"},
    {"NormType", [](auto& b) { b.tensors[1].type = 1; }, ErrorKind::damaged,
     "has a tensor blk.0.attn_norm.weight of type f16, which llama.cpp cannot compute with; it must be f32"},
    {"BlockSize", [](auto& b) { b.tensors[2].type = 8; }, ErrorKind::damaged, "is damaged at byte "},
    {"NoElements",
     [](auto& b) {
         b.tensors[0].ne = {4, 0};
     },
     ErrorKind::damaged, "is damaged at byte "},
    {"TooManyElements",
     [](auto& b) {
         b.tensors[0].ne = {1u << 31, 1u << 31, 1u << 31};
     },
     ErrorKind::damaged, "is damaged at byte "},
    {"FiveDimensions",
     [](auto& b) {
         b.tensors[0].ne = {1, 1, 1, 1, 1};
     },
     ErrorKind::damaged, "is damaged at byte "},
    {"OutsideTheFile",
     [](auto& b) {
         b.tensors[2].ne = {4, 1 << 20};
     },
     ErrorKind::damaged, "is cut off: it has "},
    {"Overlap", [](auto& b) { b.tensors[1].bytes = 64; }, ErrorKind::damaged,
     "says that tensor blk.0.attn_q.weight lies at 128 of the data, where 96 is expected"},
    {"NoTensors", [](auto& b) { b.tensors.clear(); }, ErrorKind::not_ours,
     "is a GGUF file without tensors, not a model"},
    {"Adapter", [](auto& b) { b.string("general.type", "adapter"); }, ErrorKind::not_ours,
     "is a LoRA adapter, not a model"},
    {"NoArchitecture", [](auto& b) { b.drop("general.architecture"); }, ErrorKind::damaged,
     "has no key general.architecture"},
    {"UnknownArchitecture", [](auto& b) { b.string("general.architecture", "gptj"); }, ErrorKind::unsupported,
     "is a model of architecture \"gptj\", which llama.cpp v0.5.0 does not know"},
    {"NoLayers", [](auto& b) { b.drop("llama.block_count"); }, ErrorKind::damaged, "has no key llama.block_count"},
    {"ZeroLayers", [](auto& b) { b.u32("llama.block_count", 0); }, ErrorKind::damaged,
     "has a key llama.block_count of 0"},
    {"TooManyLayers", [](auto& b) { b.u32("llama.block_count", 513); }, ErrorKind::damaged,
     "has a key llama.block_count of 513; at most 512 can be"},
    {"LayersType", [](auto& b) { b.f32("llama.block_count", 1); }, ErrorKind::damaged,
     "has a key llama.block_count of type float32; it must be uint32"},
    {"MissingLayer", [](auto& b) { b.u32("llama.block_count", 2); }, ErrorKind::damaged,
     "has no tensors for layer 1 of 2"},
    {"ExtraLayer", [](auto& b) { b.tensors[2].name = "blk.1.attn_q.weight"; }, ErrorKind::damaged,
     "has a tensor blk.1.attn_q.weight, but only 1 layers"},
    {"OnlyMtpLayers", [](auto& b) { b.u32("llama.nextn_predict_layers", 1); }, ErrorKind::damaged,
     "has 1 layers, of which 1"},
    {"NoContext", [](auto& b) { b.drop("llama.context_length"); }, ErrorKind::damaged,
     "has no key llama.context_length"},
    {"NoEmbedding", [](auto& b) { b.u32("llama.embedding_length", 0); }, ErrorKind::damaged,
     "has a key llama.embedding_length of 0"},
    {"NoHeads", [](auto& b) { b.drop("llama.attention.head_count"); }, ErrorKind::damaged,
     "has no key llama.attention.head_count"},
    {"ZeroHeads", [](auto& b) { b.u32("llama.attention.head_count", 0); }, ErrorKind::damaged,
     "has a key llama.attention.head_count of 0"},
    {"HeadsDoNotDivide", [](auto& b) { b.u32("llama.attention.head_count", 3); }, ErrorKind::damaged, "has 3 heads "},
    {"KvHeadsDoNotDivide", [](auto& b) { b.u32("llama.attention.head_count_kv", 3); }, ErrorKind::damaged,
     "has 2 query heads and 3 KV heads in layer 0"},
    {"HeadArray",
     [](auto& b) {
         b.i32s("llama.attention.head_count", {2, 2});
     },
     ErrorKind::damaged, "has a key llama.attention.head_count with 2 elements of type int32; the model has 1 layers"},
    {"NegativeHead", [](auto& b) { b.i32s("llama.attention.head_count", {-2}); }, ErrorKind::damaged,
     "has -2 at layer 0 of key llama.attention.head_count"},
    {"HeadSizesDiffer", [](auto& b) { b.u32("llama.attention.value_length", 4); }, ErrorKind::damaged,
     "has heads of 2 elements in K and 4 in V"},
    {"Rope", [](auto& b) { b.u32("llama.rope.dimension_count", 4); }, ErrorKind::damaged,
     "has a key llama.rope.dimension_count of 4, which does not fit heads of 2 elements"},
    {"RopeScaling", [](auto& b) { b.string("llama.rope.scaling.type", "magic"); }, ErrorKind::unsupported,
     "has a key llama.rope.scaling.type that llama.cpp does not know"},
    {"Experts", [](auto& b) { b.u32("llama.expert_count", 4); }, ErrorKind::damaged, "uses 0 of 4 experts"},
    {"ExpertGroups",
     [](auto& b) {
         b.u32("llama.expert_count", 4), b.u32("llama.expert_used_count", 2), b.u32("llama.expert_group_count", 3);
     },
     ErrorKind::damaged, "has 4 experts in 3 groups"},
    {"NotANumber", [](auto& b) { b.f32("llama.attention.layer_norm_rms_epsilon", std::nanf("")); }, ErrorKind::damaged,
     "has a key llama.attention.layer_norm_rms_epsilon of nan"},
    {"NegativeEpsilon", [](auto& b) { b.f32("llama.attention.layer_norm_rms_epsilon", -1); }, ErrorKind::damaged,
     "has a key llama.attention.layer_norm_rms_epsilon of -1"},
    {"NoTokenizer", [](auto& b) { b.drop("tokenizer.ggml.model"); }, ErrorKind::damaged,
     "has no key tokenizer.ggml.model"},
    {"NoTokenizerAndNoSize", [](auto& b) { b.string("tokenizer.ggml.model", "none"), b.drop("llama.vocab_size"); },
     ErrorKind::damaged, "has no key llama.vocab_size"},
    {"UnknownTokenizer", [](auto& b) { b.string("tokenizer.ggml.model", "magic"); }, ErrorKind::unsupported,
     "has a tokeniser (tokenizer.ggml.model) that llama.cpp does not know"},
    {"NoTokens", [](auto& b) { b.drop("tokenizer.ggml.tokens"); }, ErrorKind::damaged,
     "has no key tokenizer.ggml.tokens"},
    {"TokensType", [](auto& b) { b.i32s("tokenizer.ggml.tokens", {1}); }, ErrorKind::damaged,
     "has a key tokenizer.ggml.tokens that is not an array of string"},
    {"SameTokens",
     [](auto& b) {
         b.strings("tokenizer.ggml.tokens", {"a", "b", "c", "a"});
     },
     ErrorKind::damaged, "has the same text for tokens 0 and 3"},
    {"SameTokensForC",
     [](auto& b) {
         b.strings("tokenizer.ggml.tokens", {"a", "b", "c", std::string("b\0x", 3)});
     },
     ErrorKind::damaged, "has the same text for tokens 1 and 3"},
    {"EmptyTokens",
     [](auto& b) {
         b.strings("tokenizer.ggml.tokens", {"", "[EMPTY_0]", "c", "d"});
     },
     ErrorKind::damaged, "has the same text for tokens 0 and 1"},
    {"FewTypes",
     [](auto& b) {
         b.i32s("tokenizer.ggml.token_type", {1, 1});
     },
     ErrorKind::damaged, "has 4 tokens, but only 2 elements in key tokenizer.ggml.token_type"},
    {"NoMerges", [](auto& b) { b.string("tokenizer.ggml.model", "gpt2"); }, ErrorKind::damaged,
     "has no key tokenizer.ggml.merges"},
    {"NoBos",
     [](auto& b) {
         b.string("tokenizer.ggml.model", "gpt2"), b.strings("tokenizer.ggml.merges", {}),
             b.boolean("tokenizer.ggml.add_bos_token", true);
     },
     ErrorKind::damaged, "asks for a token to be added (tokenizer.ggml.add_bos_token)"},
    {"EmbeddingRows",
     [](auto& b) {
         b.strings("tokenizer.ggml.tokens", {"a", "b", "c"});
     },
     ErrorKind::damaged, "has a tensor token_embd.weight of 4 x 4; 4 elements for 3 tokens are expected"},
    {"NoEmbeddingTensor", [](auto& b) { b.tensors[0].name = "x"; }, ErrorKind::damaged,
     "has no tensor token_embd.weight"},
    {"SecondPart",
     [](auto& b) {
         b.key("split.no", 2, GgufBuilder::raw(uint16_t(1))), b.key("split.count", 2, GgufBuilder::raw(uint16_t(3)));
     },
     ErrorKind::invalid_argument, "is part 2 of 3 of a model; name its first part"},
};

class GgufDamageSentence : public testing::TestWithParam<Damage> {};

TEST_P(GgufDamageSentence, NamesThePlace) {
    GgufBuilder b = GgufBuilder::llama();
    GetParam().make(b);
    const auto result = check(b.bytes());
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind, GetParam().kind);
    EXPECT_EQ(result.error().message.find(std::string("m.gguf ") + GetParam().says), 0u) << result.error().message;
}

INSTANTIATE_TEST_SUITE_P(All, GgufDamageSentence, testing::ValuesIn(damages),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(GgufCheck, ShowsNoControlCharactersFromTheFile) {
    GgufBuilder b = GgufBuilder::llama();
    b.key("evil\x1b[2Jname", 77, "");
    const std::string message = plain(b.bytes());
    EXPECT_TRUE(std::all_of(message.begin(), message.end(), [](char c) { return c >= 0x20 && c < 0x7F; })) << message;
}

// ---- the table of architectures

TEST(GgufArchitectures, AreThoseOfThePinnedSources) {
    const std::string source = test::read_bytes(ATTNSCOPE_LLAMA_DIR "/src/llama-arch.cpp");
    ASSERT_FALSE(source.empty());
    for (const gguf::Architecture& arch : gguf::architectures()) {
        EXPECT_NE(source.find('"' + std::string(arch.name) + '"'), std::string::npos) << arch.name;
    }
    size_t n = 0;
    for (size_t at = source.find("{ LLM_ARCH_"); at != std::string::npos; at = source.find("{ LLM_ARCH_", at + 1)) ++n;
    // two have a name but no implementation: gptj and "(unknown)"
    EXPECT_EQ(n, gguf::architectures().size() + 2) << "run scripts/list-architectures.py";
}

} // namespace
} // namespace attnscope
