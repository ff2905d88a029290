// What the verbs say of a model that reads with an encoder and writes with a decoder (T5), where a token has no rows in some layers
// and positions begin anew.
#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <string>

#include <sys/wait.h>

namespace attnscope {
namespace {

using test::TempDir;

struct Outcome {
    int exit_code = -1;
    std::string output, errors;
};

// Of 2 layers: 0 and 1 are the encoder's, 2 and 4 the decoder's, 3 and 5 cross attention. 10 tokens are read, 1 begins, 4 are written.
class EncoderDecoderVerbs : public testing::Test {
protected:
    Outcome attnscope(const std::string& arguments) {
        const std::string command =
            "timeout 60 '" ATTNSCOPE_BIN "' " + arguments + " >'" + dir_.file("out") + "' 2>'" + dir_.file("err") + "'";
        const int status = std::system(command.c_str());
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, test::read_bytes(dir_.file("out")),
                test::read_bytes(dir_.file("err"))};
    }
    void SetUp() override {
        ASSERT_EQ(attnscope("models make --arch t5 --layers 2 -o " + model_).exit_code, 0);
        test::write_bytes(dir_.file("ids"), "[5, 12, 19, 26, 33, 40, 47, 54, 61, 68]");
        capture_ = "capture -m " + model_ + " --input-ids " + dir_.file("ids") + " --temp 0 --ignore-eos -n 5 ";
        const Outcome captured = attnscope(capture_ + "-o " + recording_);
        ASSERT_EQ(captured.exit_code, 0) << captured.errors;
    }
    TempDir dir_;
    std::string model_ = dir_.file("t5.gguf"), recording_ = dir_.file("t5.attn"), capture_;
};

TEST_F(EncoderDecoderVerbs, ShowSaysWhereATokenHasNoRow) {
    const std::string show = "show " + recording_ + " ";
    struct Asked {
        const char *what, *said;
    };
    for (const Asked& a : {Asked{"--token -1 --layer 0", "layer of the encoder, and the token is the decoder's"},
                           Asked{"--token 3 --layer 2", "layer of the decoder, and the token is of the encoder's text"},
                           Asked{"--token 3 --layer 3,5", "cross attention"}, Asked{"--generated --layer 1", "none of"},
                           Asked{"--token -1 --layer 0 --head 0 --values", "the encoder"}}) {
        const Outcome shown = attnscope(show + a.what);
        EXPECT_EQ(shown.exit_code, 2) << a.what << "\n" << shown.output;
        EXPECT_EQ(shown.output, "") << a.what;
        EXPECT_NE(shown.errors.find(a.said), std::string::npos) << a.what << "\n" << shown.errors;
    }
    const Outcome json = attnscope(show + "--token -1 --layer 0 --json");
    EXPECT_EQ(json.exit_code, 2);
    EXPECT_EQ(nlohmann::json::parse(json.output)["error"]["kind"], "not_found");
    // of several layers those that there are
    const Outcome mixed = attnscope(show + "--token -1 --layer 0,2 --json");
    ASSERT_EQ(mixed.exit_code, 0) << mixed.errors;
    const Outcome own = attnscope(show + "--token -1 --layer 2 --json");
    EXPECT_EQ(nlohmann::json::parse(mixed.output)["rows"], nlohmann::json::parse(own.output)["rows"]);
}

TEST_F(EncoderDecoderVerbs, ShowNamesColumnsWherePositionsBeginAnew) {
    const Outcome shown = attnscope("show " + recording_ + " --token -1 --layer 2 --top 20");
    ASSERT_EQ(shown.exit_code, 0) << shown.errors;
    EXPECT_NE(shown.output.find("column position"), std::string::npos) << shown.output;
    EXPECT_NE(shown.output.find("      10        0 "), std::string::npos)
        << shown.output; // what the decoder begins with
    const Outcome json = attnscope("show " + recording_ + " --token -1 --layer 2 --top 20 --json");
    for (const auto& entry : nlohmann::json::parse(json.output)["top"]) {
        const int column = entry["column"];
        EXPECT_EQ(entry["position"], column < 10 ? column : column - 10);
    }
    // the first position of the decoder's own is the one that --hide-first means there
    const Outcome hidden = attnscope("show " + recording_ + " --token -1 --layer 2 --top 20 --hide-first --json");
    for (const auto& entry : nlohmann::json::parse(hidden.output)["top"]) {
        EXPECT_TRUE(entry["column"] != 10 || entry["weight"] == 0.0) << entry;
    }
}

TEST_F(EncoderDecoderVerbs, InfoTellsWhoseEveryLayerIs) {
    const Outcome told = attnscope("info " + recording_);
    ASSERT_EQ(told.exit_code, 0) << told.errors;
    for (const char* line :
         {"layers 0, 1: the encoder's", "layers 2, 4: the decoder's", "layers 3, 5: cross attention"})
        EXPECT_NE(told.output.find(line), std::string::npos) << line << "\n" << told.output;
}

TEST_F(EncoderDecoderVerbs, InfoCountsTheLogThatIsStillBesideTheFile) {
    const auto bytes = nlohmann::json::parse(attnscope("info --json " + recording_).output)["bytes"].get<int64_t>();
    EXPECT_EQ(bytes, static_cast<int64_t>(std::filesystem::file_size(recording_)));
    test::write_bytes(recording_ + "-wal", std::string(1000, '\0'));
    EXPECT_EQ(nlohmann::json::parse(attnscope("info --json " + recording_).output)["bytes"], bytes + 1000);
}

TEST_F(EncoderDecoderVerbs, AModelThatCanBeCapturedIsNoFailure) {
    const Outcome checked = attnscope("models check " + model_);
    EXPECT_EQ(checked.exit_code, 0) << checked.output;
    EXPECT_EQ(checked.output.find("does not generate"), std::string::npos) << checked.output;
    const auto json = nlohmann::json::parse(attnscope("models check --json " + model_).output);
    EXPECT_EQ(json["generates_text"], true);
    EXPECT_EQ(json["encoder_decoder"], true);
}

TEST_F(EncoderDecoderVerbs, WhatCannotBeDoneIsSaidInWords) {
    struct Asked {
        std::string what, said;
    };
    for (const Asked& a :
         {Asked{capture_ + "-ctv q8_0 -fa on -o " + dir_.file("q.attn"), "-ctv f16"},
          Asked{capture_ + "-c 4 -o " + dir_.file("c.attn"), "larger -c"},
          Asked{"diagnose " + recording_, "attnscope verify"},
          Asked{"filter " + recording_ + " -o " + dir_.file("f.json"), "attnscope verify"},
          Asked{"serve --port 0 -m " + model_, "attnscope capture"},
          Asked{"export " + recording_ + " --to html -o " + dir_.file("t.html"), "attnscope view"},
          Asked{"export " + recording_ + " --to halo-weave -o " + dir_.file("h"), "--layer 2,3,4,5"}}) {
        const Outcome refused = attnscope(a.what);
        EXPECT_EQ(refused.exit_code, 2) << a.what << "\n" << refused.output;
        EXPECT_NE(refused.errors.find(a.said), std::string::npos) << a.what << "\n" << refused.errors;
    }
}

} // namespace
} // namespace attnscope
