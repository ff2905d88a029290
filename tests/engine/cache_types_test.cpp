// Every type of cache, size of head, kind of attention and way in: good rows with a good verdict, or a sentence. Never a crash.
#include "models/model_make.h"
#include "support/engine_rows.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Types {
    const char *k, *v;
    FlashAttention flash;
};

// llama.cpp takes a quantised V with flash attention only.
std::vector<Types> all_types() {
    std::vector<Types> all;
    for (const char* type : {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"}) {
        all.push_back({type, "f16", FlashAttention::off});
        all.push_back({type, type, FlashAttention::on});
    }
    for (const char* type : {"f32", "bf16"}) {
        all.push_back({"f16", type, FlashAttention::off});
        all.push_back({"f16", type, FlashAttention::on});
    }
    return all;
}

std::vector<int32_t> some_tokens(int n) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back(5 + i * 7 % 200);
    return tokens;
}

bool in_blocks(const std::string& type) {
    return type[0] == 'q' || type[0] == 'i';
}

} // namespace

class CacheTypes : public testing::TestWithParam<int> {};

TEST_P(CacheTypes, GiveGoodRowsOrASentence) {
    TempDir dir;
    models::ModelShape shape;
    shape.n_layer = 2;
    shape.head_dim = GetParam();
    const std::string path = dir.file("model.gguf");
    const Result<void> made = models::make_model(shape, path);
    ASSERT_TRUE(made) << made.error().message;
    for (const Types& types : all_types()) {
        for (const Entry entry : {Entry::interposed, Entry::callback}) {
            const bool flash = types.flash == FlashAttention::on;
            SCOPED_TRACE(std::string(types.k) + "/" + types.v + (flash ? " flash" : " plain") +
                         (entry == Entry::callback ? " callback" : " interposed"));
            SessionOptions o;
            o.model_path = path;
            o.n_ctx = 128;
            o.n_batch = 16;
            o.n_threads = 1; // several tests run at once
            o.flash_attention = types.flash;
            o.entry = entry;
            o.cache_type_k = types.k;
            o.cache_type_v = types.v;
            const RowsDifference d = compare_with_engine(o, some_tokens(27), 8, [](size_t) { return true; });
            const bool cut = shape.head_dim % 32 != 0 && (in_blocks(types.k) || in_blocks(types.v));
            const bool converted = flash && std::string(types.k) == "f32";
            if (cut || converted) {
                EXPECT_NE(d.error, "");
                EXPECT_TRUE(d.error.find("-ctk f16") != std::string::npos ||
                            d.error.find("divide") != std::string::npos ||
                            d.error.find("block size") != std::string::npos)
                    << d.error;
                continue;
            }
            EXPECT_EQ(d.error, "");
            EXPECT_EQ(d.not_ok, 0);
            EXPECT_LE(d.max_witness, 1.0);
            EXPECT_GT(d.witnessed, 0);
            if (flash) continue;
            EXPECT_EQ(d.tokens, 35);
            EXPECT_LE(d.max_difference, 1e-6);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(HeadSizes, CacheTypes, testing::Values(32, 48, 64, 80, 96, 128));
