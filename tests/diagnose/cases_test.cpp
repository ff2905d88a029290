// Files as other programs write them, read as what they are.
#include <attnscope/diagnose.h>
#include <attnscope/dump_reader.h>

#include <gtest/gtest.h>

#include <string>

using namespace attnscope;

namespace {

struct Case {
    const char* file;
    Cause cause;
    const char* axes; // how they have to be read
    int64_t n_tokens;
    const char* evidence; // part of a sentence that has to be there; empty: none in particular
};

constexpr Case cases[] = {
    {"hf_savez_12.npz", Cause::clean, "layer 12 (an array each), head 4, query 24, key 24", 24, "sum to 1"},
    {"hf_step_LH1S.npy", Cause::clean, "layer 6, head 8, key 40", 1, ""},
    {"hf_step_L1H1S.npy", Cause::clean, "layer 6, head 8, key 40", 1, ""},
    {"agg_layers_TLS.npy", Cause::clean, "token 20, layer 6, key 40", 20, ""},
    {"agg_TS.npy", Cause::clean, "token 20, key 40", 20, ""},
    {"hf_mean_SS.npy", Cause::clean, "query 40, key 40", 40, ""},
    {"dropout_tokens.npy", Cause::dropout, "token 20, layer 6, head 8, key 40", 20, "rate 0.1:"},
    {"snapkv_tokens.npy", Cause::evicted, "token 20, layer 6, head 8, key 40", 20, "no column that a token left out"},
    {"scores_m1e4_tokens.npy", Cause::raw_scores, "token 20, layer 6, head 8, key 40", 20, "-10000"},
    {"scores_m1e4_tokens.npy", Cause::raw_scores, "token 20, layer 6, head 8, key 40", 20, "lie 1.3 apart"},
    // GPT-2 in train mode whose heads look at one position each: rows of zeros by chance are no file's end
    {"torch_dropout_one_hot.npy", Cause::unknown, "layer 2, head 4, query 16, key 16", 16, "none negative"},
    // and scores in float16, NaN in whole queries as well as between them
    {"torch_half_overflow.npy", Cause::half_overflow, "layer 2, head 4, query 18, key 18", 18, "NaN or infinite"},
    {"trunc.npy", Cause::corrupt, "token 20, layer 6, head 8, key 40", 14, "ends before its array does"},
};

} // namespace

TEST(Cases, AreReadAndNamedAsWhatTheyAre) {
    for (const Case& c : cases) {
        auto reader = DumpReader::open(std::string(ATTNSCOPE_SOURCE_DIR "/tests/data/cases/") + c.file);
        ASSERT_TRUE(reader) << c.file << ": " << reader.error().message;
        EXPECT_EQ((*reader)->info().axes, c.axes) << c.file;
        auto diagnosis = diagnose_dump(**reader);
        ASSERT_TRUE(diagnosis) << c.file << ": " << diagnosis.error().message;
        EXPECT_EQ(diagnosis->cause(), c.cause) << c.file << ": " << diagnosis->conclusion;
        EXPECT_EQ(diagnosis->findings.size(), 1u) << c.file << ": " << diagnosis->conclusion;
        EXPECT_EQ(int64_t(diagnosis->tokens.size()), c.n_tokens) << c.file;
        std::string evidence;
        for (const std::string& sentence : diagnosis->findings[0].evidence) evidence += sentence + "\n";
        EXPECT_NE(evidence.find(c.evidence), std::string::npos) << c.file << ": " << evidence;
    }
}
