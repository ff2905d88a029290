// What the verbs say of a model that reads with an encoder and writes with a decoder (T5), where a token has no rows in some layers
// and positions begin anew.
#include "cli/t5_recording.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

namespace attnscope {
namespace {

using test::Outcome;

class EncoderDecoderVerbs : public test::T5Recording {};

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
    for (const auto& entry : nlohmann::json::parse(hidden.output)["top"]) EXPECT_NE(entry["column"], 10) << entry;
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

// The engine's contexts are whole multiples of 256 positions, and a text may fill the one that there is.
TEST_F(EncoderDecoderVerbs, ATextMayFillTheContextThatTheEngineMakes) {
    std::string ids;
    for (int i = 0; i < 256; ++i) ids += std::to_string(5 + i % 60) + " ";
    test::write_bytes(dir_.file("long"), ids);
    const std::string capture = "capture -m " + model_ + " --temp 0 --ignore-eos -n 2 --input-ids " + dir_.file("long");
    const Outcome whole = attnscope(capture + " -c 64 -o " + dir_.file("c.attn"));
    EXPECT_EQ(whole.exit_code, 0) << whole.errors;
    EXPECT_NE(whole.errors.find("context of 256 positions of -c 64"), std::string::npos) << whole.errors;
    test::write_bytes(dir_.file("long"), ids + "7");
    const Outcome more = attnscope(capture + " -c 64 -o " + dir_.file("d.attn"));
    EXPECT_EQ(more.exit_code, 2) << more.errors;
    EXPECT_NE(more.errors.find("at most 256 of them; give a larger -c"), std::string::npos) << more.errors;
    ASSERT_EQ(attnscope("models make --force --arch t5 --layers 2 --ctx 100 -o " + model_).exit_code, 0);
    const Outcome trained = attnscope(capture_ + "-c 300 -o " + dir_.file("e.attn")); // with texts of 100 tokens
    EXPECT_EQ(trained.exit_code, 0) << trained.errors;
    EXPECT_EQ(trained.errors.find("-c 300"), std::string::npos) << trained.errors;
    EXPECT_NE(trained.errors.find("was trained with"), std::string::npos) << trained.errors;
}

TEST_F(EncoderDecoderVerbs, NumbersOfTokensThatMeanNothingAreRefused) {
    for (const char* n : {"-2", "-17", "x"}) {
        const Outcome refused = attnscope(read_ + "-n " + n + " -o " + dir_.file("n.attn"));
        EXPECT_EQ(refused.exit_code, 2) << n << "\n" << refused.errors;
        EXPECT_NE(refused.errors.find(std::string("--n-predict takes a number of at least -1, not ") + n),
                  std::string::npos)
            << refused.errors;
    }
    for (const char* n : {"-1", "0"}) {
        const Outcome refused = attnscope("reproduce -m " + model_ + " -n " + n + " -o " + dir_.file("r"));
        EXPECT_EQ(refused.exit_code, 2);
        EXPECT_NE(refused.errors.find("at least 1"), std::string::npos) << refused.errors;
    }
    // nothing is said to be done that is then refused
    const Outcome reproduced = attnscope("reproduce -m " + model_ + " -n 3 -o " + dir_.file("r"));
    EXPECT_EQ(reproduced.exit_code, 2);
    EXPECT_EQ(reproduced.errors.find("capturing the wrong way"), std::string::npos) << reproduced.errors;
    EXPECT_NE(reproduced.errors.find("does not generate text"), std::string::npos) << reproduced.errors;
}

// llama.cpp aborts on some files: they get no further than to the check.
TEST_F(EncoderDecoderVerbs, ServeHandsNoDamagedFileToTheEnginesServer) {
    std::string bytes = test::read_bytes(model_);
    bytes.resize(bytes.size() / 2);
    test::write_bytes(dir_.file("half.gguf"), bytes);
    const Outcome refused = attnscope("serve --port 0 -m " + dir_.file("half.gguf"));
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_EQ(refused.errors.find("loading"), std::string::npos) << refused.errors;
    EXPECT_NE(refused.errors.find("half.gguf"), std::string::npos) << refused.errors;
}

TEST_F(EncoderDecoderVerbs, WhatCannotBeDoneIsSaidInWords) {
    struct Asked {
        std::string what, said;
    };
    for (const Asked& a :
         {Asked{capture_ + "-ctv q8_0 -fa on -o " + dir_.file("q.attn"), "-ctv f16"},
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
